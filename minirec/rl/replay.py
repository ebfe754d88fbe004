"""Several optimizer steps on the same rollouts, with resets between (Reset Replay).

After LoRR (arXiv 2508.06412): replay each batch, now and then move the weights back towards those
of the start, and imitate the best answers the more, the older the rollouts are. The formulas of the
paper could not be checked. The shape of the rise and what a reset shrinks are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minirec.rl.group import Choice


def pass_of(step: int, replays: int) -> tuple[int, int]:
    """The number of the batch that a step trains on, and which pass over it this is, from 0."""
    return divmod(step, replays)


def best_weight(number: int, replays: int, cap: float) -> float:
    """Weight of the imitation of the best rollouts in a pass: from 0 in pass 0 to `cap` in the last
    one; 0 if there is only one."""
    return cap * number / (replays - 1) if replays > 1 else 0.0


def shrunk(now: Tensor, start: Tensor | None, keep: float) -> Tensor:
    """keep x now + (1 - keep) x start; no start counts as 0."""
    return keep * now if start is None else keep * now + (1 - keep) * start


def best_loss(
    logprobs: Tensor, rollout: Tensor, chosen: Sequence[Choice], *, per_prompt: int
) -> Tensor:
    """Sum of -log p over the written tokens of the best rollout of each group that is not dead.

    LoRR imitates the chosen answers of its pairs, which stay the same in all passes over them. So
    the best rollout is that of the first pass here too (`minirec.rl.preference.choices`).

    Args:
        logprobs: (W,) of the written tokens, with gradient.
        rollout: (W,) int64, the rollout 0..P*G-1 of each token.
        chosen: of the P groups. per_prompt: G.
    """
    best = torch.zeros(len(chosen) * per_prompt, dtype=torch.bool, device=logprobs.device)
    best[[i * per_prompt + one.best for i, one in enumerate(chosen) if not one.dead]] = True
    return -logprobs[best[rollout]].sum()
