"""A hinge between all pairs of rollouts of a prompt, with margins that grow with their ranks.

After the contrastive loss of SumLLM (arXiv 2305.14239, whose code was read), which is that of BRIO
(arXiv 2203.16804). The ranks there are those of an LLM; here they are those of the reward.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_ranks(rewards: Tensor, *, least: float) -> Tensor:
    """Ranks (P, G) int64 of rewards (P, G) in their group: the best has 0, and equal ones share.

    A rank begins at a reward and has all that are less than `least` below it. So a group has two
    ranks or more exactly if its largest and its smallest reward are at least `least` apart.
    """
    order = rewards.argsort(dim=1, descending=True, stable=True)
    falling = rewards.gather(1, order)
    first, rank = falling[:, 0], torch.zeros(len(rewards), dtype=torch.int64, device=rewards.device)
    found = [rank]
    for column in range(1, rewards.shape[1]):
        lower = first - falling[:, column] >= least
        first = torch.where(lower, falling[:, column], first)
        rank = rank + lower
        found.append(rank)
    return torch.empty_like(order).scatter(1, order, torch.stack(found, 1))


def contrastive_loss(
    mean_logprob: Tensor,
    rewards: Tensor,
    alive: Tensor,
    *,
    margin: float = 0.01,
    least: float = 1e-3,
) -> Tensor:
    """Sum over groups of the mean over pairs of relu(margin (ln 2 + ln d) - (f_i - f_j)).

    A pair has a rollout i that ranks d > 0 better than j; f is the mean log-probability of the
    tokens of a rollout. A group without a pair adds 0. The published code takes the logarithm of
    differences that must be positive, and is NaN unless the candidates come sorted and differ.

    Args:
        mean_logprob: (P, G), with gradient.
        rewards: (P, G).
        alive: (P, G) bool; other rollouts are in no pair.
        margin: of two rollouts whose ranks are neighbours, divided by ln 2.
        least: smaller distances of rewards are ties.
    """
    rank = dense_ranks(rewards, least=least)
    apart = rank[:, None, :] - rank[:, :, None]  # (P, i, j): by how much i ranks better than j
    pair = (apart > 0) & alive[:, :, None] & alive[:, None, :]
    wanted = margin * (math.log(2) + apart.clamp_min(1).log())
    ahead = mean_logprob[:, :, None] - mean_logprob[:, None, :]
    hinge = torch.where(pair, (wanted - ahead).clamp_min(0), 0.0)
    return (hinge.sum((1, 2)) / pair.sum((1, 2)).clamp_min(1)).sum()


def contrast(
    logprobs: Tensor,
    rollout: Tensor,
    rewards: Tensor,
    dead: Tensor,
    *,
    margin: float,
    least: float,
) -> tuple[Tensor, dict[str, float]]:
    """`contrastive_loss` of the written tokens, and sums over groups for the log.

    `misordered` is the share of the pairs of a group whose worse rollout is the likelier one. A
    rollout without a written token is in no pair, since its probability is always 1.

    Args:
        logprobs: (W,) of the written tokens, with gradient.
        rollout: (W,) int64, the rollout 0..P*G-1 of each token.
        rewards, dead: (P, G), and (P,) bool.
    """
    zeros = logprobs.new_zeros(rewards.numel())
    count = zeros.index_add(0, rollout, torch.ones_like(logprobs)).view(rewards.shape)
    mean = zeros.index_add(0, rollout, logprobs).view(rewards.shape) / count.clamp_min(1)
    alive = (count > 0) & ~dead[:, None]
    total = contrastive_loss(mean, rewards, alive, margin=margin, least=least)
    rank = dense_ranks(rewards, least=least)
    pair = (rank[:, :, None] < rank[:, None, :]) & alive[:, :, None] & alive[:, None, :]
    wrong = pair & (mean[:, :, None] < mean[:, None, :])
    share = wrong.sum((1, 2)) / pair.sum((1, 2)).clamp_min(1)
    return total, {"misordered": float(share.sum())}
