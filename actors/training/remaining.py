"""Rollouts that are written only where the rewards of the first ones differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actors.training.order import Batch
from actors.training.written import Written
from minirec.model.tokens import FORWARD, PREFILL, read
from minirec.rl.group import Group, filled, joined
from minirec.rl.grpo import is_dead
from minirec.rng import seed_of

if TYPE_CHECKING:
    from actors.training.further import Further

PART = "-remaining"


def with_remaining(
    further: Further, step: int, groups: list[Group], batch: Batch, table: Tensor
) -> tuple[list[Group], Written]:
    """Groups of `rollouts_per_prompt` rollouts, and what engines wrote besides the first ones.

    A group whose first rewards are nearly equal (`is_dead`) is filled with its own rollouts, which
    leaves it dead: the range of its rewards stays. In another one, rollout j has the seed plus j,
    as if all had been asked for at once.
    """
    spec = further.spec
    first, size = spec.training.written_first, spec.training.rollouts_per_prompt
    rewards = torch.tensor(further.rewards(groups, table))
    dead = is_dead(rewards, floor=spec.training.advantage_floor).tolist()
    live = [row for row, none in enumerate(dead) if not none]
    written = further.ask(
        step,
        [groups[row].prompt for row in live],
        n=size - first,
        seeds=[seed_of(spec.seed, "train", batch[row][0]) + first for row in live],
        part=PART,
    )
    more = {
        row: further.encoder.group(batch[row][1], groups[row].prompt, completions)
        for row, completions in zip(live, written, strict=True)
    }
    # The cost of the groups contains the tokens that were written, and each prompt once.
    again = PREFILL * sum(len(groups[row].prompt) for row in live)
    passes = FORWARD * sum(read(group, further.sharing) for group in groups)
    spent = replace(Written.of([*more.values()]), forward_tokens=again + passes)
    return [
        joined(group, more[row]) if row in more else filled(group, size)
        for row, group in enumerate(groups)
    ], spent
