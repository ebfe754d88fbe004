"""DeepSpeed engines, and communication between the training workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from actors.training.spec import TrainingSpec
from minirec.model.recommender import Policy

T = TypeVar("T")


def zero_engine(
    policy: Policy,
    *,
    stage: int,
    micro_batch: int,
    optimizer: torch.optim.Optimizer | None = None,
    **settings: object,
) -> Any:
    """A DeepSpeed engine around the policy.

    DeepSpeed's own bfloat16 mode would convert the LoRA weights too, and add up their gradients in
    bfloat16, where each addition of a micro-batch loses digits. So it stays off, and `Policy`
    converts in its pass. Only ZeRO 3 needs it, as it shards all weights in one dtype; it can add up
    in float32.

    Args:
        stage: ZeRO stage, 0 to 3.
        micro_batch: sequences or prompts of a pass; DeepSpeed only records it.
        optimizer: None if no steps are made; then stages 1 and 2 have nothing to shard.
        settings: further entries of DeepSpeed's config.
    """
    import deepspeed

    # Otherwise CPU workers compile a shared-memory op at their start, which needs a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if optimizer is None and stage < 3:
        stage = 0
    config = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        **settings,
    }
    if stage == 3 and policy.dtype == torch.bfloat16:
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    weights = [p for p in policy.parameters() if p.requires_grad] if optimizer else None
    engine, *_ = deepspeed.initialize(
        model=policy, optimizer=optimizer, model_parameters=weights, config=config
    )
    return engine


def training_engine(policy: Policy, spec: TrainingSpec) -> Any:
    """The engine of a training. The caller says which backward is the last of a step:
    `set_gradient_accumulation_boundary`."""
    t = spec.training
    lora = [p for p in policy.parameters() if p.requires_grad]
    return zero_engine(
        policy,
        stage=spec.zero_stage,
        micro_batch=t.prompts_per_micro_batch,
        optimizer=torch.optim.AdamW(lora, weight_decay=t.weight_decay),
        gradient_clipping=t.max_grad_norm,
    )


def of_rank_0(compute: Callable[[], T]) -> T:
    """Call `compute` on rank 0 only, and return its result on all ranks."""
    box = [compute() if dist.get_rank() == 0 else None]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def spread(count: int, block: int, compute: Callable[[range], list[T]]) -> list[T]:
    """A value for each of `count` rows, computed in blocks that are spread over the workers.

    All workers must call it, and all get all values. Under ZeRO 3 a forward needs all workers, so a
    worker without a block repeats block 0.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    blocks = [range(i, min(i + block, count)) for i in range(0, count, block)]
    found: dict[int, list[T]] = {}
    for first in range(0, len(blocks), world):
        mine = first + rank
        part = compute(blocks[mine if mine < len(blocks) else 0])
        if mine < len(blocks):
            found[mine] = part
    parts: list[dict[int, list[T]]] = [found]
    if world > 1:
        parts = [{}] * world
        dist.all_gather_object(parts, found)
    by_block = {number: values for part in parts for number, values in part.items()}
    return [value for number in sorted(by_block) for value in by_block[number]]


def barrier() -> None:
    """Wait for the other workers."""
    if dist.get_world_size() > 1:
        dist.barrier()
