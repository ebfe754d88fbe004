"""The part of the plan that estimates GPU memory, and what the catalogue costs."""

from __future__ import annotations

import math
import subprocess
from functools import partial
from typing import Any

from minirec.config.run import Config
from minirec.model.blocks import BLOCK_TOKENS
from minirec.resources import estimates
from minirec.resources.catalogue import catalogue_cost
from minirec.resources.estimates import GPUS, ModelShape
from minirec.store.files import read_json
from minirec.store.run import Run

Row = tuple[str, str, str]
GIB = 2**30
MANY = 50_000  # items that are too many to be encoded with gradient in each step
ASSUMED = 10_000  # number of items before `prepare` has counted them
BATCHED_TOKENS = 16_384  # vLLM's own max_num_batched_tokens on large GPUs; smaller ones take less


def estimated(config: Config) -> list[Row]:
    """`memory_rows` and `catalogue_rows` with the catalogue size of the run; empty for the demo
    model."""
    if config.model.name == "demo":
        return []
    path = Run(config.run_dir).path("corpus", "corpus.json")
    items = read_json(path)["items"] if path.exists() else None
    return memory_rows(config, items) + catalogue_rows(config, items)


def catalogue_rows(config: Config, items: int | None) -> list[Row]:
    """Rows about the item table and about encoding all items, which a refresh and a validation do.

    Empty for a model of unknown shape, and for a catalogue of unknown size (`items` None).
    """
    shape = estimates.shape_of(config.model.name)
    if shape is None or items is None:
        return []
    t, m, r = config.training, config.model, config.rollout
    cost = catalogue_cost(
        shape,
        t,
        items=items,
        item=m.max_item_tokens,
        prompt=m.max_prompt_tokens,
        written=max(1, r.max_new_tokens),
        rank=m.lora_rank,
    )
    gib = cost.table / GIB
    when = (
        "each item_refresh_steps steps and for a validation"
        if t.reads_table
        else ("for a validation; no step needs it")
    )
    rows = [
        ("catalogue", "item table", f"{gib:.2f} GiB: {items:,} items x {shape.hidden:,} numbers"),
        ("catalogue", "a training step, at most", f"{cost.step:.1e} FLOPs without a new table"),
        (
            "catalogue",
            "a new table, at most",
            f"{cost.refresh:.1e} FLOPs, {cost.refresh / cost.step:,.1f} steps; {when}",
        ),
    ]
    if t.item_negatives is None and items > MANY:
        rows.append(
            (
                "warning",
                "training.item_negatives",
                f"null encodes all {items:,} items with gradient in each step; set a number, such "
                f"as 512",
            )
        )
    return rows


def memory_rows(config: Config, items: int | None) -> list[Row]:
    """Rows (stage, quantity, value): memory of each process, and warnings about what does not fit.

    Empty if no process has a GPU. A setting ``auto`` counts as 1. `items` is the size of the
    catalogue, None if unknown.
    """
    r = config.resources
    if not any((_engine_gpus(config), r.gpus_per_worker, r.gpus_per_scorer)):
        return []
    shape = estimates.shape_of(config.model.name)
    if shape is None:
        return [("estimate", "memory", "unknown: no config.json here, or an unknown architecture")]
    name, found = (r.gpu, "resources.gpu") if r.gpu else (installed_gpu(), "found by nvidia-smi")
    parts = memory(config, shape, ASSUMED if items is None else items, gpu=name)
    rows = [("estimate", "model", f"{shape.parameters / 1e9:.2f}B parameters")]
    for process, sizes in parts.items():
        named = ", ".join(f"{name} {size / GIB:.1f}" for name, size in sizes.items())
        total = f"about {sum(sizes.values()) / GIB:.1f} GiB: {named}"
        rows.append(("estimate", f"{process}, memory", total))
    unknown = f"unknown, so nothing is compared; set resources.gpu to one of {', '.join(GPUS)}"
    gpu = f"{name} ({found}), {GPUS[name]:.0f} GiB" if name else unknown
    assumed = f"; {ASSUMED:,} items, until prepare counts them"
    assuming = (
        f"computed from the shape of the model, not measured on a GPU; prompts of "
        f"{config.model.max_prompt_tokens} and completions of "
        f"{config.rollout.max_new_tokens} tokens (the maximum); one process where resources are "
        f"auto{assumed if items is None else ''}"
    )
    rows += [("estimate", "GPU", gpu), ("estimate", "assuming", assuming)]
    return rows + (_warnings(config, parts, name) if name else [])


def memory(
    config: Config, shape: ModelShape, items: int, *, gpu: str | None = None
) -> dict[str, dict[str, float]]:
    """Bytes by process (engine, training worker, scorer) and part, on one GPU each.

    With `training.gradient_checkpointing: auto`, a worker computes activations again where they
    take more than half of what the other parts leave on the `gpu`, as training does.
    """
    from actors.engines.engine import most_prompts_per_call

    m, r, t = config.model, config.rollout, config.training
    width = 2 if m.dtype == "bfloat16" else 4
    length = m.max_prompt_tokens + r.max_new_tokens
    workers = _or_one(config.resources.training_workers)
    calls = most_prompts_per_call(config)
    found = {}
    scored = config.scoring.stages[-1] if config.scores else 0
    if gpus := _engine_gpus(config):
        found["engine"] = estimates.engine_memory(
            shape,
            width=width,
            gpus=max(1, int(gpus)),
            sequences=calls
            * max(scored, t.rollouts_per_prompt, min(1, t.credit_draws) * t.credit_completions),
            length=length,
            batched_tokens=BATCHED_TOKENS,
        )
    if config.resources.gpus_per_worker:
        trainer = partial(
            estimates.trainer_memory,
            shape,
            width=width,
            rank=m.lora_rank,
            workers=workers,
            zero_stage=config.resources.zero_stage,
            prompts=t.prompts_per_micro_batch,
            rollouts=t.rollouts_per_prompt if r.analysis else 1,
            prompt=m.max_prompt_tokens,
            completion=r.max_new_tokens,
            # More candidates with gradient take more passes.
            items_at_once=math.ceil(min(items, t.prompts_per_step) / workers),
            item=m.max_item_tokens,
            items=items,
        )
        sizes = trainer(checkpointing=t.gradient_checkpointing is True)
        if t.gradient_checkpointing == "auto" and gpu:
            kept = sizes["activations and logits"]
            left = GIB * _left(config, gpu) - (sum(sizes.values()) - kept)
            sizes = trainer(checkpointing=kept > left / 2)
        found["training worker"] = sizes
    if config.resources.gpus_per_scorer:
        group = estimates.group_tokens(
            shape,
            rollouts=max(1, scored + 1 if r.analysis else 1),
            prompt=m.max_prompt_tokens,
            completion=r.max_new_tokens,
        )
        tokens = max(BLOCK_TOKENS["cuda"], group)
        found["scorer"] = estimates.scorer_memory(shape, width=width, tokens=tokens, items=items)
    return found


def _engine_gpus(config: Config) -> float:
    """GPUs of an engine; 0 also without engines."""
    return _or_one(config.resources.gpus_per_engine) if config.rollout.analysis else 0


def _or_one(number: Any) -> Any:
    return 1 if number == "auto" else number


def _warnings(config: Config, parts: dict[str, dict[str, float]], name: str) -> list[Row]:
    """A row for each process that does not fit, with both numbers and what to lower."""
    r = config.resources
    there = GPUS[name]
    share = config.rollout.gpu_memory_utilization * there
    need = {process: sum(sizes.values()) / GIB for process, sizes in parts.items()}
    texts = []
    if need.get("engine", 0) > share:
        texts.append(
            f"an engine needs {need['engine']:.1f} GiB, and rollout.gpu_memory_utilization leaves "
            f"it {share:.1f}; raise this setting, or lower rollout.prompts_per_call"
        )
    trainer = (
        "training.prompts_per_micro_batch or model.max_prompt_tokens, or raise resources.zero_stage"
    )
    for process, gpus, remedy in (
        ("training worker", _or_one(r.gpus_per_worker), trainer),
        ("scorer", _or_one(r.gpus_per_scorer), "model.max_prompt_tokens"),
    ):
        left = _left(config, name, gpus)
        if need.get(process, 0) > left:
            beside = " beside an engine" if left < there else ""
            texts.append(
                f"a {process} needs {need[process]:.1f} GiB, the {name} has {left:.1f}{beside}; "
                f"lower {remedy}"
            )
    return [("warning", "memory", text) for text in texts]


def _left(config: Config, gpu: str, gpus: float | None = None) -> float:
    """GiB of this GPU for a process with so many GPUs, by default a training worker: all, or what
    an engine on the same GPU leaves."""
    gpus = _or_one(config.resources.gpus_per_worker) if gpus is None else gpus
    shares = 0 < gpus < 1 and 0 < _engine_gpus(config) < 1
    return GPUS[gpu] * (1 - config.rollout.gpu_memory_utilization * shares)


def installed_gpu() -> str | None:
    """Key in `GPUS` of the GPU of this machine; None if there is no GPU or it is unknown."""
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        lines = subprocess.check_output(words, stderr=subprocess.DEVNULL, text=True, timeout=20)
    except (FileNotFoundError, subprocess.SubprocessError):
        return None
    return estimates.gpu_named(lines.splitlines()[0]) if lines.strip() else None
