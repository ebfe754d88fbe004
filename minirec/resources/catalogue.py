"""What the size of a catalogue costs: memory of the item table, FLOPs of a step and of a refresh.

The work of a step has three parts that grow with V: the items that are encoded with gradient, the
scores of the ranking, and with `item_candidates: catalogue` those of the item loss. Encoding all
items, which a refresh of the table does, is far more than a step from some ten thousand items on.
"""

from __future__ import annotations

from dataclasses import dataclass

from minirec.config.training import TrainingConfig
from minirec.resources import flops
from minirec.resources.estimates import ModelShape


@dataclass(frozen=True)
class CatalogueCost:
    """table: bytes of V vectors in float32. refresh: FLOPs of encoding all items. step: FLOPs of a
    step without a refresh. scores: its part for the scores of the ranking and of the item loss."""

    table: int
    refresh: int
    step: int
    scores: int


def catalogue_cost(
    shape: ModelShape,
    training: TrainingConfig,
    *,
    items: int,
    item: int,
    prompt: int,
    written: int,
    rank: int,
) -> CatalogueCost:
    """The cost of V `items` in a training on one worker.

    Args:
        item, prompt: their tokens.
        written: tokens of each rollout; without rollouts (`loss: supervised`) of the answer.
        rank: of the LoRA weights.
    """
    t = training
    each = t.rollouts_per_prompt if t.rolls_out else 1
    group = flops.group(prompt, [written] * each)
    prompts = flops.forward(shape, group, rank=rank) + flops.backward(shape, group, rank=rank)
    if t.rolls_out:
        prompts += flops.forward(shape, flops.rollouts(prompt, [written] * each), rank=rank)
    one = flops.sequences([item])
    encoded = flops.forward(shape, one, rank=rank)
    own = candidates(t, items=items)
    trained = own * (encoded + flops.backward(shape, one, rank=rank))
    ranked = items * each if t.rolls_out else 0
    # A comparison with gradient is three products: scores, and a gradient by each factor. Beside a
    # large catalogue without gradient, backward computes the scores again instead of one of them.
    compared = items if t.item_candidates == "catalogue" else own
    scores = 2 * t.prompts_per_step * shape.hidden * (ranked + 3 * compared)
    return CatalogueCost(
        table=4 * items * shape.hidden,
        refresh=items * encoded,
        step=t.prompts_per_step * prompts + trained + scores,
        scores=scores,
    )


def candidates(training: TrainingConfig, *, items: int) -> int:
    """The items with gradient in a step, at most: its targets and those that join them."""
    if training.item_negatives is None:
        return items
    return min(items, training.prompts_per_step + training.item_negatives)
