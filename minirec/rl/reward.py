"""Rewards of rollouts by full ranking of the catalogue (arXiv 2505.16994; method, section 1).

A reward is a function ``(ranking, cutoff) -> (B,) float32``. To add one, write a function here and
add it to `REWARDS`, or name your own function in the setting as ``package.module:function``.
`minirec export` copies this file into its folders, so it imports only torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """Rank of the target (B,) int64, 1 is best, and its softmax probability (B,) float32."""

    rank: Tensor
    probability: Tensor


RewardFunction = Callable[[Ranking, int], Tensor]
"""Takes a `Ranking` and the cutoff m, and returns (B,) float32."""


def excluded_mask(excluded: Sequence[Sequence[int]], target: Tensor, *, items: int) -> Tensor:
    """(B, items) bool, True for an excluded item. The target (B,) is never excluded."""
    mask = torch.zeros((len(excluded), items), dtype=torch.bool)
    for row, ids in enumerate(excluded):
        mask[row, torch.as_tensor(list(ids), dtype=torch.int64)] = True
    mask[torch.arange(len(excluded)), target.cpu()] = False
    return mask


def item_scores(hidden: Tensor, *, items: Tensor, temperature: float) -> Tensor:
    """Scores cos(h, w_v)/tau (B, V) float32 of hidden (B, d) and unit-norm items (V, d)."""
    return F.normalize(hidden.float(), dim=-1) @ items.float().T / temperature


def rank_target(scores: Tensor, *, target: Tensor, mask: Tensor | None = None) -> Ranking:
    """Rank and softmax probability of the target (B,) in scores (B, V), without masked items.

    Ties count against the target. Without a `mask` (B, V), excluded items have the score -inf.

    Raises:
        ValueError: a score is NaN.
    """
    if torch.isnan(scores).any():
        row = int(torch.isnan(scores).any(1).nonzero()[0])
        raise ValueError(f"scores of row {row} are NaN; the policy has diverged")
    if mask is not None:
        scores = scores.masked_fill(mask, -torch.inf)
    own = scores.gather(1, target[:, None])
    rank = (scores >= own).sum(1)
    return Ranking(rank, torch.exp(own[:, 0] - torch.logsumexp(scores, 1)))


def ndcg_softmax(ranking: Ranking, cutoff: int, *, softmax_weight: float) -> Tensor:
    """(1 - b) NDCG@m + b p(target), with b = reward.softmax_weight and m = reward.cutoff."""
    return (1 - softmax_weight) * ndcg(ranking, cutoff) + softmax_weight * ranking.probability


def ndcg(ranking: Ranking, cutoff: int) -> Tensor:
    """NDCG@m with one relevant item: 1 / log2(rank + 1) up to rank m, else 0."""
    gain = 1 / torch.log2(ranking.rank.float() + 1)
    return torch.where(ranking.rank <= cutoff, gain, torch.zeros_like(gain))


def reciprocal_rank(ranking: Ranking, cutoff: int) -> Tensor:
    """1 / rank up to rank m, else 0."""
    return 1 / ranking.rank.float() * (ranking.rank <= cutoff)


def reference_likelihood(ranking: Ranking, cutoff: int) -> Tensor:
    """(1 - b) NDCG@m + b x what a rollout tells reward.reference of the target's text."""
    return ndcg(ranking, cutoff)  # `minirec.rl.likelihood` has the part that reads texts


def hit(ranking: Ranking, cutoff: int) -> Tensor:
    """1 up to rank K, else 0; reward.cutoff has no effect."""
    return (ranking.rank <= cutoff).float()


def ideal(count: Tensor, *, most: int, reward: RewardFunction, cutoff: int) -> Tensor:
    """(P,) float32: the sum of the rewards of count (P,) relevant items at the ranks 1..count, of
    which each has the probability 1 / count, over that for one item; count is at most `most`.

    So one relevant item earns its reward itself, whatever else is in a micro-batch.
    """
    sums = torch.ones(most + 1, device=count.device)
    for m in range(1, most + 1):
        rank = torch.arange(1, m + 1, device=count.device)
        share = torch.full((m,), 1 / m, device=count.device)
        sums[m] = reward(Ranking(rank, share), cutoff).sum().clamp_min(1e-12)
    return (sums / sums[1])[count]


def reward_function(name: str, *, softmax_weight: float) -> RewardFunction:
    """A reward of `REWARDS` by name, or the user's function, ``package.module:function``.

    A name that ends in ``@K`` takes any number K, which replaces the cutoff.

    Raises:
        ImportError: the user's function cannot be imported.
    """
    module, colon, function = name.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"reward.name={name!r} cannot be imported: {error}; correct the name, or add the "
                f"folder of the module to PYTHONPATH"
            ) from None
    stem, at, number = name.partition("@")
    if at:
        return lambda ranking, _: REWARDS[f"{stem}@K"](ranking, int(number))
    if name == "ndcg_softmax":
        return partial(ndcg_softmax, softmax_weight=softmax_weight)
    return REWARDS[name]


REWARDS: dict[str, Callable[..., Tensor]] = {
    "ndcg_softmax": ndcg_softmax,
    "ndcg": ndcg,
    "reciprocal_rank": reciprocal_rank,
    "hit@K": hit,
    "reference_likelihood": reference_likelihood,
}
"""Names of ``reward.name``. `minirec.config.choices` reads them here."""
