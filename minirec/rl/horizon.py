"""Rewards with a horizon: later items of the user count as relevant too (after arXiv 2208.07563).

The label is coarse: the policy learns one number for the ranking of the user's next n items, and
not which of them it ranked well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import RewardFunction, ideal


def relevant_items(targets: Targets) -> Tensor:
    """(P, n) int64: the target, then the following items; -1 fills rows with fewer."""
    own = targets.target[:, None]
    if targets.following is None:
        return own
    return torch.cat([own, targets.following], dim=1)


def graded(
    ranker: Ranker, hidden: Tensor, targets: Targets, *, reward: RewardFunction, cutoff: int
) -> Tensor:
    """Rewards (P * G,) float32 of hidden states (P * G, d) for the next n items of each user.

    R is the sum of the rewards of the relevant items at their ranks, divided by `ideal`: the sum
    for the best ranking, in which m relevant items have the ranks 1..m and the probability 1/m
    each, over that for one item. With NDCG as the reward this is DCG / ideal DCG, and with one
    relevant item the reward itself.
    """
    items = relevant_items(targets)
    known = items >= 0
    rollouts = len(hidden) // max(1, len(items))
    total = torch.zeros(len(hidden), device=hidden.device)
    for column in range(items.shape[1]):
        there = known[:, column]
        # Where there is no such item, the target is ranked again and does not count.
        asked = torch.where(there, items[:, column], targets.target)
        one = Targets(asked, targets.excluded, targets.prior)
        value = reward(ranker.rank(hidden, one), cutoff)
        total = total + value * there.repeat_interleave(rollouts)
    best = ideal(known.sum(1), most=items.shape[1], reward=reward, cutoff=cutoff)
    return total / best.repeat_interleave(rollouts)
