"""The part of the plan that estimates GPU memory and hours of a real model."""

from __future__ import annotations

import math
import subprocess
from dataclasses import dataclass
from typing import Any

from minirec.config.run import Config, TrainingConfig
from minirec.resources import estimates
from minirec.resources.estimates import GPUS, Gpu, Shape
from minirec.store.files import read_json
from minirec.store.run import Run

Row = tuple[str, str, str]
GIB = 2**30
ASSUMED = 10_000  # training samples, and items, while `prepare` has not counted them


@dataclass(frozen=True)
class Processes:
    """Engines, scorers and training workers, with the GPUs of each; a share is below 1."""

    engines: int
    engine_gpus: float
    scorers: int
    scorer_gpus: float
    workers: int
    worker_gpus: float
    zero_stage: int


@dataclass(frozen=True)
class Corpus:
    """Counts of training samples and items."""

    train: int
    items: int


def estimated(config: Config) -> list[Row]:
    """`cost_rows` of a config, with the counts of a finished `prepare`; none for the demo model."""
    if config.model.name == "demo":
        return []
    path = Run(config.run_dir).path("corpus", "corpus.json")
    corpus = None
    if path.exists():
        counts = read_json(path)
        corpus = Corpus(counts["samples"]["train"], counts["items"])
    return cost_rows(config, processes(config), corpus, config.resources.gpu)


def processes(config: Config) -> Processes:
    """What the settings ask for; one process, and one GPU of each, where they say ``auto``."""
    r = config.resources
    engines = r.engines[0] if isinstance(r.engines, tuple) else r.engines
    return Processes(
        engines=_or_one(engines),
        engine_gpus=_or_one(r.gpus_per_engine),
        scorers=_or_one(r.scorers),
        scorer_gpus=_or_one(r.gpus_per_scorer),
        workers=_or_one(r.training_workers),
        worker_gpus=_or_one(r.gpus_per_worker),
        zero_stage=r.zero_stage,
    )


def _or_one(number: Any) -> Any:
    return 1 if isinstance(number, str) else number


def cost_rows(config: Config, use: Processes, corpus: Corpus | None, gpu: str | None) -> list[Row]:
    """Rows (stage, quantity, value) with the estimates and, where memory lacks, a warning.

    Nothing without GPUs.

    Args:
        corpus: counts of `prepare`; None: `ASSUMED` ones.
        gpu: key of `estimates.GPUS`; None: asks nvidia-smi.
    """
    if not max(use.engine_gpus, use.worker_gpus, use.scorer_gpus):
        return []
    shape = estimates.shape_of(config.model.name)
    if shape is None:
        return [("estimate", "memory and time", "not known: no config.json of the model here yet")]
    name, found = (gpu, "resources.gpu") if gpu else (installed_gpu(), "found by nvidia-smi")
    counts = corpus or Corpus(ASSUMED, ASSUMED)
    parts = memory(config, shape, use, counts.items)
    rows = [("estimate", "model", f"{shape.parameters / 1e9:.2f}B parameters")]
    rows += [("estimate", f"{who}, memory", _sum(what)) for who, what in parts.items()]
    if name is None:
        known = ", ".join(GPUS)
        return [*rows, ("estimate", "time", f"not known: set resources.gpu to one of {known}")]
    rows.insert(1, ("estimate", "GPU", f"{name} ({found}), {GPUS[name].memory_gib:.0f} GiB"))
    rows += _Hours(config, shape, use, counts, GPUS[name]).rows()
    guess = "" if corpus else f"; {ASSUMED:,} training samples and items, until prepare counts them"
    assumed = (
        f"prompts of {config.model.max_prompt_tokens} and completions of "
        f"{config.rollout.max_new_tokens} tokens, the most; {estimates.UTILISATION:.0%} of the "
        "FLOPs, "
        f"{estimates.BANDWIDTH_SHARE:.0%} of the bandwidth; one process where resources say auto"
        f"{guess}"
    )
    rows.append(("estimate", "assuming", assumed))
    return rows + _warnings(config, use, parts, name)


def memory(config: Config, shape: Shape, use: Processes, items: int) -> dict[str, dict[str, float]]:
    """Bytes by part of an engine, a training worker and a scorer, on one GPU."""
    m, r = config.model, config.rollout
    width = _width(config)
    length = m.max_prompt_tokens + r.max_new_tokens
    found = {}
    if use.engine_gpus:
        found["engine"] = estimates.engine_memory(
            shape,
            width=width,
            gpus=max(1, int(use.engine_gpus)),
            sequences=r.prompts_per_call * config.scoring.stages[-1],
            length=length,
            batched_tokens=max(32_768, r.prompts_per_call * length),
        )
    if use.worker_gpus:
        t = config.training
        found["training worker"] = estimates.trainer_memory(
            shape,
            width=width,
            rank=m.lora_rank,
            workers=use.workers,
            zero_stage=use.zero_stage,
            prompts=t.prompts_per_micro_batch,
            rollouts=t.rollouts_per_prompt,
            prompt=m.max_prompt_tokens,
            completion=r.max_new_tokens,
            items_at_once=math.ceil(min(items, t.prompts_per_step) / use.workers),
            item=m.max_item_tokens,
            items=items,
        )
    if use.scorer_gpus:
        found["scorer"] = estimates.scorer_memory(
            shape, width=width, tokens=64 * length, items=items
        )  # 64 sequences in a forward, actors.scoring.FORWARD_SEQUENCES
    return found


@dataclass(frozen=True)
class _Hours:
    """Hours of the stages that take GPUs, by what they are spent on."""

    config: Config
    shape: Shape
    use: Processes
    corpus: Corpus
    gpu: Gpu

    def rows(self) -> list[Row]:
        chosen = self.config.selection.count(self.corpus.train)
        stages = {
            "proxy": self._training(self.config.proxy.training, self.config.proxy.samples),
            "score": self._scoring(),
            "train": self._training(self.config.training, chosen),
        }
        return [("estimate", f"{stage}, hours", _hours(parts)) for stage, parts in stages.items()]

    def _training(self, t: TrainingConfig, samples: int) -> dict[str, float]:
        steps = t.steps_on(samples)
        prompts = steps * t.prompts_per_step
        rollouts = prompts * t.rollouts_per_prompt
        gpus = self.use.worker_gpus or 1
        tokens = prompts * estimates.group_tokens(
            self.shape,
            rollouts=t.rollouts_per_prompt,
            prompt=self.config.model.max_prompt_tokens,
            completion=self.config.rollout.max_new_tokens,
        )
        backward = estimates.training_seconds(
            self.shape, tokens, gpu=self.gpu, gpus=self.use.workers * gpus
        )
        # Every worker encodes the whole catalogue when it is due.
        tables = math.ceil(steps / t.item_refresh_steps) * self._item_tokens
        encoding = estimates.forward_seconds(self.shape, tables, gpu=self.gpu, gpus=gpus)
        return {
            "generation": self._generation(prompts, rollouts, at_once=t.prompts_per_step),
            "training": backward,
            "item table": encoding,
        }

    def _scoring(self) -> dict[str, float]:
        scoring = self.config.scoring
        samples = scoring.count(self.corpus.train)
        rollouts = samples * (scoring.stages[-1] + 1)  # and a greedy one
        tokens = rollouts * self._length + self._item_tokens
        gpus = self.use.scorers * (self.use.scorer_gpus or 1)
        return {
            "generation": self._generation(samples, rollouts, at_once=scoring.shard_size),
            "forward": estimates.forward_seconds(self.shape, tokens, gpu=self.gpu, gpus=gpus),
        }

    def _generation(self, prompts: int, rollouts: int, *, at_once: int) -> float:
        """An engine has one call at a time: its prompts, or those of a step if they are fewer."""
        call = min(self.config.rollout.prompts_per_call, math.ceil(at_once / self.use.engines))
        return estimates.generation_seconds(
            self.shape,
            rollouts,
            prompts=prompts,
            prompt=self.config.model.max_prompt_tokens,
            completion=self.config.rollout.max_new_tokens,
            sequences=max(1, call * rollouts // prompts),
            width=_width(self.config),
            gpu=self.gpu,
            gpus=self.use.engines * (self.use.engine_gpus or 1),
        )

    @property
    def _length(self) -> int:
        return self.config.model.max_prompt_tokens + self.config.rollout.max_new_tokens

    @property
    def _item_tokens(self) -> int:
        return self.corpus.items * self.config.model.max_item_tokens


def _hours(parts: dict[str, float]) -> str:
    named = ", ".join(f"{name} {seconds / 3600:.2g}" for name, seconds in parts.items())
    return f"about {sum(parts.values()) / 3600:.2g}: {named}"


def _warnings(
    config: Config, use: Processes, parts: dict[str, dict[str, float]], name: str
) -> list[Row]:
    """What does not fit, with both numbers and what to lower."""
    there = GPUS[name].memory_gib
    share = config.rollout.gpu_memory_utilization * there
    need = {who: sum(what.values()) / GIB for who, what in parts.items()}
    rows = []
    if need.get("engine", 0) > share:
        rows.append(
            f"an engine needs {need['engine']:.1f} GiB, and rollout.gpu_memory_utilization leaves "
            f"it {share:.1f}; raise that, or lower rollout.prompts_per_call"
        )
    for who, gpus in (("training worker", use.worker_gpus), ("scorer", use.scorer_gpus)):
        shares = 0 < gpus < 1 and 0 < use.engine_gpus < 1
        left = there - share if shares else there
        mend = {
            "training worker": "training.prompts_per_micro_batch or model.max_prompt_tokens, or "
            "raise resources.zero_stage",
            "scorer": "model.max_prompt_tokens",
        }[who]
        if need.get(who, 0) > left:
            beside = " beside an engine" if shares else ""
            rows.append(
                f"a {who} needs {need[who]:.1f} GiB, the {name} has {left:.1f}{beside}; "
                f"lower {mend}"
            )
    return [("warning", "memory", text) for text in rows]


def installed_gpu() -> str | None:
    """Key of the GPU of this machine; None where there is none, or an unknown one."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return estimates.gpu_named(lines[0]) if done.returncode == 0 and lines else None


def _sum(parts: dict[str, float]) -> str:
    named = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return f"about {sum(parts.values()) / GIB:.1f} GiB: {named}"


def _width(config: Config) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
