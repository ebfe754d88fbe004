"""Item losses on lists that the policy draws, after RLTR (arXiv 2208.07563).

The scores of the candidates are those of a Plackett-Luce model of lists. Lists are drawn, each is
rewarded by the places of its relevant items, and the log-probability of the better lists rises. No
advantage of a rollout enters, so a group whose rollouts all earn the same is learnt from too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minirec.rl.grpo import advantages
from minirec.rl.reward import Ranking, RewardFunction
from minirec.rng import seed_of

ListLoss = Callable[..., Tensor]
"""``(log_prob (P, S) with gradient, rewards (P, S), floor=, scale=)`` -> (P,)."""


LOWEST = -1e9
"""Stands for the score -inf of an excluded candidate."""


@dataclass(frozen=True)
class Lists:
    """The loss (P,) with gradient of P groups, and the rewards (P, S) of their lists."""

    loss: Tensor
    rewards: Tensor


def uniforms(seed: int, numbers: Sequence[int], *, samples: int, candidates: int) -> Tensor:
    """(P, S, C) float32 in (0, 1): random numbers for the lists of P samples in a step.

    They depend on the seed of the step and on the sample, so neither micro-batches nor workers
    matter.
    """
    shape = (samples, candidates)
    drawn = [np.random.default_rng(seed_of(seed, n)).random(shape) for n in numbers]
    # A uniform of 0 or 1 would be an infinite Gumbel number.
    found = torch.from_numpy(np.stack(drawn)).clamp(1e-12, 1 - 1e-12)
    return found.float().clamp_max(1 - 2**-24)


@torch.no_grad()
def draw_lists(scores: Tensor, *, uniforms: Tensor, depth: int) -> Tensor:
    """S lists of the best k candidates, (P, S, k) int64 positions, by sorting scores + Gumbel.

    This draws from the Plackett-Luce model of scores (P, C), in which an excluded candidate has
    -inf and is in no list before all others. `uniforms` are (P, S, C); k is `depth`, at most C.
    """
    gumbel = -torch.log(-torch.log(uniforms.to(scores)))
    depth = min(depth, scores.shape[1])
    return (scores[:, None] + gumbel).argsort(dim=2, descending=True, stable=True)[:, :, :depth]


def log_probability(scores: Tensor, lists: Tensor) -> Tensor:
    """Log-probability (P, S) of lists (P, S, k) in the Plackett-Luce model of scores (P, C).

    log pi = sum over places j of s_(j) - log sum of exp s over the candidates that places before j
    have left. The places of excluded candidates (score -inf) at the end of a list count 0.
    """
    # The gradient of a log-sum-exp of -inf alone is NaN.
    wide = scores.clamp_min(LOWEST)[:, None].expand(len(scores), lists.shape[1], scores.shape[1])
    own = wide.gather(2, lists)
    # What is left at each place, summed from the end: first the candidates that are in no place.
    outside = wide.scatter(2, lists, LOWEST).logsumexp(2, keepdim=True)
    left = torch.logcumsumexp(torch.cat([outside, own.flip(2)], dim=2), dim=2)[..., 1:].flip(2)
    return torch.where(own > LOWEST, own - left, torch.zeros_like(own)).sum(2)


@torch.no_grad()
def list_rewards(lists: Tensor, *, relevant: Tensor, reward: RewardFunction, cutoff: int) -> Tensor:
    """Rewards (P, S) of lists (P, S, k): the reward of each relevant item at its place, summed, and
    divided by this sum of the best list.

    An item beyond the list earns 0. The probability that a reward function gets is 0.

    Args:
        relevant: (P, n) int64 positions of the relevant candidates; -1 fills rows with fewer.
    """
    known = relevant >= 0
    found = (lists[:, :, None] == relevant[:, None, :, None]) & known[:, None, :, None]
    place = found.int().argmax(3) + 1  # (P, S, n)
    earned = reward(_ranking(place.flatten()), cutoff).view(place.shape) * found.any(3)
    ideal = torch.arange(1, relevant.shape[1] + 1, device=lists.device)
    gains = reward(_ranking(ideal), cutoff)[None] * (ideal <= lists.shape[2])
    best = (gains * (ideal[None] <= known.sum(1, keepdim=True))).sum(1)
    return earned.sum(2) / best.clamp_min(1e-12)[:, None]


def _ranking(rank: Tensor) -> Ranking:
    return Ranking(rank, torch.zeros(rank.shape, device=rank.device))


def plackett_luce(log_prob: Tensor, rewards: Tensor, *, floor: float, scale: bool) -> Tensor:
    """Policy gradient of drawn lists: the mean over lists of -A log p of the list.

    With `scale`, A is (R - mean) / max(std, floor), as in GRPO, which biases the gradient. Without,
    A is R minus the mean of the other lists, and the gradient is exact in expectation.
    """
    count = rewards.shape[1]
    advantage = advantages(rewards, floor=floor, scale=scale)
    if not scale:
        advantage = advantage * (count / (count - 1))
    return -(advantage * log_prob).mean(1)


def pairs(log_prob: Tensor, rewards: Tensor, *, floor: float, scale: bool) -> Tensor:
    """Pairwise policy gradient: the mean over pairs of lists of -(R1 - R2)(log p1 - log p2).

    The lists 0 and 1 are a pair, 2 and 3, and so on; S is even. `floor` and `scale` have no effect.
    """
    better = rewards[:, ::2] - rewards[:, 1::2]
    return -(better * (log_prob[:, ::2] - log_prob[:, 1::2])).mean(1)


LIST_LOSSES: dict[str, ListLoss] = {"plackett_luce": plackett_luce, "pairs": pairs}
"""Values of the setting `item_loss` that draw lists."""


def ranking_loss(
    scores: Tensor,
    *,
    relevant: Tensor,
    uniforms: Tensor,
    depth: int,
    reward: RewardFunction,
    cutoff: int,
    kind: str,
    floor: float,
    scale: bool,
) -> Lists:
    """The loss of P groups by drawn lists.

    Args:
        scores: (P, C) with gradient; -inf for a candidate that is not ranked.
        relevant: (P, n) int64, see `list_rewards`.
        uniforms: (P, S, C).
        depth: places k of a list.
        kind: a name of `LIST_LOSSES`.
    """
    lists = draw_lists(scores, uniforms=uniforms, depth=depth)
    rewards = list_rewards(lists, relevant=relevant, reward=reward, cutoff=cutoff)
    log_prob = log_probability(scores, lists)
    return Lists(LIST_LOSSES[kind](log_prob, rewards, floor=floor, scale=scale), rewards)
