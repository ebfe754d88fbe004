"""GRPO with a recommendation head (RecPO, arXiv 2505.16994; method, section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio, outside of which a token has no gradient, and cap of its weight."""

    low: float = 0.2
    high: float = 0.28
    cap: float = 2.0


def advantages(rewards: Tensor, *, floor: float = 1e-3, scale: bool = True) -> Tensor:
    """Group advantages (P, G) of rewards (P, G): (r - mean) / max(std, floor).

    std is the population standard deviation. The floor keeps float noise in a dead group small.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if not scale:
        return centred
    return centred / rewards.std(1, correction=0, keepdim=True).clamp_min(floor)


def surrogate(log_ratio: Tensor, advantage: Tensor, *, clip: Clip) -> Tensor:
    """Clipped policy-gradient loss of each entry, with the shape of both arguments.

    The ratio is relative to the policy that wrote the rollout: the engine's, which with staleness 1
    is one update old. The cap truncates the importance weight and keeps the gradient, so a token
    with a negative advantage that has become much likelier still gets a gradient with weight `cap`.
    A clamp of the ratio would remove its gradient.
    """
    excess = (log_ratio.detach() - math.log(clip.cap)).clamp_min(0)
    ratio = (log_ratio - excess).exp()
    clipped = ratio.clamp(1 - clip.low, 1 + clip.high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def is_clipped(log_ratio: Tensor, advantage: Tensor, *, clip: Clip) -> Tensor:
    """True for entries without gradient, because the ratio has passed its bound."""
    ratio = log_ratio.exp()
    return ((advantage > 0) & (ratio > 1 + clip.high)) | ((advantage < 0) & (ratio < 1 - clip.low))


def token_loss(
    logprobs: Tensor, rollout_logprobs: Tensor, advantage: Tensor, *, clip: Clip
) -> Tensor:
    """Sum of the token losses; all arguments (T,), one entry per completion token.

    The caller divides it by the number of tokens in the global batch. Other shapes are an error,
    because broadcasting (B, 1, 1) with (B, L) would cancel the gradient.

    Raises:
        ValueError: the shapes differ.
    """
    if not logprobs.shape == rollout_logprobs.shape == advantage.shape or logprobs.dim() != 1:
        raise ValueError(
            f"expected three vectors of one length, found {tuple(logprobs.shape)}, "
            f"{tuple(rollout_logprobs.shape)} and {tuple(advantage.shape)}"
        )
    return surrogate(logprobs - rollout_logprobs, advantage, clip=clip).sum()


def is_dead(rewards: Tensor, *, floor: float) -> Tensor:
    """Groups (P,) bool with nearly equal rewards (P, G), from which almost nothing is learned.

    The rewards are those without the weights of items, so that the floor means the same for all.
    """
    return rewards.max(1).values - rewards.min(1).values < floor


def best_rollouts(rewards: Tensor) -> Tensor:
    """Index (P,) of the best rollout of each group in rewards (P, G), ties to the first."""
    best = rewards.max(1, keepdim=True).values
    return (rewards == best).int().argmax(1)


def item_loss(
    hidden: Tensor,
    *,
    candidates: Tensor,
    target: Tensor,
    excluded: Tensor,
    advantage: Tensor,
    temperature: float,
    clip: Clip,
    offset: Tensor | None = None,
    rest: Callable[[Tensor, float], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over groups of -A log p_y, as a clipped surrogate, at the best rollout of each group.

    The ratio always has the value 1, so the value of the loss means nothing, but its gradient is
    that of -A log p_y. log p_y (P,) is also returned for the log, without gradient.

    Args:
        hidden, advantage: (P, d) hidden states of the best rollouts, with gradient, and (P,).
        candidates: (C, d) item vectors, unit norm.
        target, excluded: (P,) position of the target among them, and (P, C) bool, True if not
            ranked.
        offset: (P, C) added to the scores: the collaborative prior, and minus the log-probability
            that the rest of a step has each candidate. With the latter, the softmax over the
            candidates estimates the softmax over all targets (Yi et al. 2019, doi
            10.1145/3298689.3346996). Without it, frequent targets get lower scores, because they
            are candidates more often.
        rest: the log-sum-exp (P,) of the scores of further candidates, which are too many to be
            scored at once, for the unit vectors (P, d) of the hidden states and the temperature.
    """
    unit = torch.nn.functional.normalize(hidden, dim=-1)
    scores = unit @ candidates.T / temperature
    if offset is not None:
        scores = scores + offset
    scores = scores.masked_fill(excluded, -torch.inf)
    if rest is None:
        log_p = torch.log_softmax(scores, 1).gather(1, target[:, None])[:, 0]
    else:
        own = scores.gather(1, target[:, None])[:, 0]
        log_p = own - torch.logaddexp(scores.logsumexp(1), rest(unit, temperature))
    return surrogate(log_p - log_p.detach(), advantage, clip=clip).sum(), log_p.detach()
