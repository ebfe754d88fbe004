"""Rewards of rollouts by full ranking of the catalogue (arXiv 2505.16994; method, section 1)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.config.run import RewardConfig
from minirec.errors import ConfigError


@dataclass(frozen=True)
class Ranking:
    """Where the target stands: rank (B,) int64, 1 is best; probability (B,) float32, p_y."""

    rank: Tensor
    probability: Tensor


RewardFunction = Callable[[Ranking, int], Tensor]
"""A reward takes a `Ranking` and the cutoff m and returns (B,) float32."""


def excluded_mask(excluded: Sequence[Sequence[int]], target: Tensor, *, items: int) -> Tensor:
    """(B, V) bool, True where an item does not compete; the target always does.

    Args:
        excluded: B lists of item ids (`Sample.excluded`).
        target: (B,) item ids.
        items: V.
    """
    mask = torch.zeros((len(excluded), items), dtype=torch.bool)
    for row, ids in enumerate(excluded):
        mask[row, torch.as_tensor(list(ids), dtype=torch.int64)] = True
    mask[torch.arange(len(excluded)), target.cpu()] = False
    return mask


def item_scores(hidden: Tensor, *, items: Tensor, temperature: float) -> Tensor:
    """Scores cos(h, w_v)/tau (B, V) float32 of hidden (B, d) and unit-norm items (V, d)."""
    return F.normalize(hidden.float(), dim=-1) @ items.float().T / temperature


def rank_target(scores: Tensor, *, target: Tensor, mask: Tensor) -> Ranking:
    """Rank and softmax probability of the target (B,) in scores (B, V); masked items do not count.

    Ties count against the target.

    Raises:
        ValueError: a score is NaN.
    """
    if torch.isnan(scores).any():
        row = int(torch.isnan(scores).any(1).nonzero()[0])
        raise ValueError(f"scores of row {row} are NaN; the policy has diverged")
    scores = scores.masked_fill(mask, -torch.inf)
    own = scores.gather(1, target[:, None])
    rank = (scores >= own).sum(1)
    return Ranking(rank, torch.exp(own[:, 0] - torch.logsumexp(scores, 1)))


def ndcg(ranking: Ranking, cutoff: int) -> Tensor:
    """NDCG@m with one relevant item: 1/log2(rank + 1) up to rank m, else 0; (B,) float32."""
    gain = 1 / torch.log2(ranking.rank.float() + 1)
    return torch.where(ranking.rank <= cutoff, gain, torch.zeros_like(gain))


def reward_function(config: RewardConfig) -> RewardFunction:
    """The reward by name: ndcg, reciprocal_rank, hit@k, ndcg_softmax, or package.module:function.

    Raises:
        ConfigError: a function that cannot be imported.
    """
    name = config.name
    if name == "ndcg_softmax":
        b = config.softmax_weight
        return lambda ranking, m: (1 - b) * ndcg(ranking, m) + b * ranking.probability
    if name == "ndcg":
        return ndcg
    if name == "reciprocal_rank":
        return lambda ranking, m: 1 / ranking.rank.float() * (ranking.rank <= m)
    if name.startswith("hit@"):
        return lambda ranking, m: (ranking.rank <= int(name[4:])).float()
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"reward.name={name!r} cannot be imported: {error}") from None
