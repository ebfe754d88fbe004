"""Rewards from comparisons of rollouts (after ICPRL, arXiv 2602.08244).

The learner sees only which of two rollouts of a prompt is better. With one decision in an episode,
the paper's feedback by step and by trajectory coincide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minirec.rng import seed_of


def comparison_rewards(rewards: Tensor, *, noise: float, uniforms: Tensor | None) -> Tensor:
    """The share (P, G) float32 of the other rollouts of its group that each rollout beats.

    A tie counts 1/2. With noise T > 0, rollout i beats j with probability
    sigmoid((r_i - r_j) / T); without, the result is the same for any increasing map of the rewards.

    Args:
        rewards: (P, G), G at least 2.
        noise: T.
        uniforms: (P, G, G) in [0, 1), for T > 0. The pair i < j is drawn by entry (i, j).
    """
    size = rewards.shape[1]
    above, below = rewards[:, :, None], rewards[:, None, :]
    beats = (above > below).float() + 0.5 * (above == below).float()
    if noise > 0:
        assert uniforms is not None
        drawn = (uniforms < torch.sigmoid((above - below) / noise)).float()
        upper = torch.ones(size, size, device=rewards.device).triu(1)
        # One draw decides for both, so that one of two rollouts wins.
        beats = upper * drawn + (upper * (1 - drawn)).transpose(1, 2)
    others = beats.sum(2) - beats.diagonal(dim1=1, dim2=2)
    return others / (size - 1)


def uniforms_of(sample_ids: Sequence[int], *, size: int, seed: int) -> Tensor:
    """Uniform numbers (P, G, G) float32 that only the seed of a step and the sample decide."""
    draws = []
    for sample_id in sample_ids:
        generator = torch.Generator().manual_seed(seed_of(seed, "comparison", sample_id))
        draws.append(torch.rand((size, size), generator=generator))
    return torch.stack(draws)


def compared(rewards: Tensor, sample_ids: Sequence[int], *, noise: float, seed: int) -> Tensor:
    """`comparison_rewards` (P, G) with the draws of a step for these samples (P,)."""
    uniforms = None
    if noise > 0:
        draws = uniforms_of(sample_ids, size=rewards.shape[1], seed=seed)
        uniforms = draws.to(rewards.device)
    return comparison_rewards(rewards, noise=noise, uniforms=uniforms)
