"""Settings of the cluster's resources; `minirec.resources.allocation` resolves ``auto``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from minirec.config.section import Section

Auto = Literal["auto"]


class ResourcesConfig(Section):
    """Engines, scorers and training workers. They change the speed of a run, not its results.

    Exception: ``rollout.adapter: auto`` and ``rollout.engine: auto`` depend on `gpus_per_engine`.
    """

    engines: PositiveInt | tuple[PositiveInt, PositiveInt] | Auto = "auto"
    """Number of rollout engines; [2, 8] takes two to eight, depending on free resources; auto
    chooses from the nodes."""
    gpus_per_engine: float | Auto = 0.0
    """GPUs of an engine: 0 computes on the CPU, 0.5 shares a GPU, 2 and more are tensor parallel;
    auto takes whole GPUs, or half a GPU if there is only one."""
    cpus_per_engine: PositiveInt | Auto = 1
    """CPU cores of an engine, and threads of an engine on CPUs; auto takes all cores of this
    machine for a single engine that takes turns with the training, else one. The last digits of
    rollouts depend on this number."""
    scorers: PositiveInt | Auto = "auto"
    """Number of parallel scoring actors; auto chooses from the nodes."""
    gpus_per_scorer: float | Auto = 0.0
    """GPUs of a scoring actor, 0 to 1; auto chooses from the nodes."""
    cpus_per_scorer: int = Field(1, ge=1)
    """CPU cores and threads of a scoring actor; the bytes of its results depend on this number."""
    training_workers: PositiveInt | Auto = "auto"
    """Number of workers of warm, proxy, train and gradients; on one machine a single worker may be
    kept for all of them, and evaluate too; auto chooses from the nodes."""
    gpus_per_worker: float | Auto = 0.0
    """GPUs of a training worker, 0 to 1; a share such as 0.5 allows one worker only; auto chooses
    from the nodes."""
    cpus_per_worker: PositiveInt | Auto = "auto"
    """CPU cores and threads of a training worker; auto takes an equal share of this machine, or one
    core on a cluster."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage of DeepSpeed in the training workers."""
    gpu: Literal["H200", "H100", "A100-80", "L40S", "A10G", "L4"] | None = None
    """GPU for the estimates of `minirec plan`; null takes that of this machine."""
    corpus_mib: float = Field(128, ge=1)
    """Largest corpus that one process prepares, in MiB of unpacked text; this takes about 2 GiB of
    memory. A larger one is divided among tasks of Ray, in parts of a fifth of this size."""
    wait_s: float = Field(300, gt=0)
    """Seconds that the command waits for free resources of the cluster."""
    autoscaling: bool = False
    """Whether an autoscaler adds nodes to the cluster; a run may then ask for more than the current
    nodes have."""

    @field_validator("engines", mode="before")
    @classmethod
    def _engines(cls, engines: Any) -> Any:
        pair = isinstance(engines, (list, tuple))
        given = engines if pair else [engines]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given)
        if engines != "auto" and (not whole or (pair and len(given) != 2)):
            raise ValueError(
                f"{engines!r} is neither a number of engines nor a pair; write 4, [2, 8] for at "
                f"least two and up to eight, or auto"
            )
        if pair and given[0] > given[1]:
            raise ValueError(f"{list(given)} must rise: the fewest and the most engines")
        return engines

    @field_validator("gpus_per_engine")
    @classmethod
    def _engine_gpus(cls, gpus: float | Auto) -> float | Auto:
        if gpus != "auto" and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError(
                f"{gpus:g} is neither 0, nor a share of a GPU, nor a whole number of GPUs; "
                f"write 0.5, 1 or 2"
            )
        return gpus

    @field_validator("gpus_per_scorer", "gpus_per_worker")
    @classmethod
    def _share(cls, gpus: float | Auto) -> float | Auto:
        if gpus != "auto" and not 0 <= gpus <= 1:
            raise ValueError(
                f"{gpus:g} GPUs are not possible: one process computes on one GPU; write 0 to 1"
            )
        return gpus

    @model_validator(mode="after")
    def _check(self) -> ResourcesConfig:
        workers, gpus = self.training_workers, self.gpus_per_worker
        if workers != "auto" and workers > 1 and gpus != "auto" and 0 < gpus < 1:
            raise ValueError(
                f"training_workers {workers} with gpus_per_worker {gpus:g} would put two workers "
                f"on one GPU, which NCCL refuses; set gpus_per_worker to 1 or training_workers to 1"
            )
        return self
