"""Settings of what a run takes from the cluster.

`minirec.resources.allocation` resolves ``auto``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from minirec.config.section import Section

Auto = Literal["auto"]


class ResourcesConfig(Section):
    """Engines, scorers and training workers. They change the speed of a run, not its results.

    But for `gpus_per_engine`, from which `rollout.adapter` follows where it is auto.
    """

    engines: PositiveInt | tuple[PositiveInt, PositiveInt] | Auto = Field(
        "auto", description="rollout engines; [2, 8]: at least two, up to eight where there is room"
    )
    gpus_per_engine: float | Auto = Field(
        0.0, description="0: the CPU; 0.5 shares a GPU; 2 and more are tensor parallel"
    )
    cpus_per_engine: int = Field(1, ge=1, description="also the threads of a CPU engine")
    scorers: PositiveInt | Auto = Field("auto", description="parallel scoring actors")
    gpus_per_scorer: float | Auto = Field(0.0, description="0 to 1")
    cpus_per_scorer: int = Field(
        1, ge=1, description="also its threads, so that bytes do not depend on the machine"
    )
    training_workers: PositiveInt | Auto = Field(
        "auto",
        description="workers of proxy, train and gradients; a single one also evaluates the trials "
        "of a sweep or comparison on one machine",
    )
    gpus_per_worker: float | Auto = Field(0.0, description="0 to 1")
    cpus_per_worker: PositiveInt | Auto = Field(
        "auto", description="also its threads; auto: its share of this machine, one on a cluster"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed's, of the training workers")
    gpu: Literal["H200", "H100", "A100-80", "L40S", "A10G", "L4"] | None = Field(
        None, description="GPU that `plan` estimates for; default: that of this machine"
    )
    wait_s: float = Field(
        300, gt=0, description="seconds that a busy or growing cluster has to make room"
    )
    autoscaling: bool = Field(
        False,
        description="whether an autoscaler adds nodes to the cluster; then nothing is refused for "
        "being larger than the nodes of the moment",
    )

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
