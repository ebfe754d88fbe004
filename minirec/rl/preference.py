"""Direct preference optimisation of rollouts, with the recommendation head as the judge.

After DPO4Rec (arXiv 2410.05939), which takes the best and the worst of several answers by a
recommender; its formulas could not be checked. The loss is that of DPO (Rafailov et al. 2023, arXiv
2305.18290).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.rl.grpo import best_rollouts


def extremes(rewards: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """The best and the worst rollout of each group, (P, 2) int64, and whether they differ, (P,).

    Of equal rewards (P, G), the first counts. They differ if the rewards are at least `floor`
    apart.
    """
    pair = torch.stack([best_rollouts(rewards), best_rollouts(-rewards)], 1)
    chosen = rewards.gather(1, pair)
    return pair, chosen[:, 0] - chosen[:, 1] >= floor


def summed_by_rollout(logprobs: Tensor, rollout: Tensor, rollouts: int) -> Tensor:
    """Sums (R,) of log-probabilities (W,) over the tokens of each rollout, 0 for an empty one."""
    return logprobs.new_zeros(rollouts).index_add(0, rollout, logprobs)


def dpo_loss(
    logprob: Tensor, reference: Tensor, alive: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """Sum over groups of -log sigmoid(z), and z (P,) without gradient, 0 for a dead group.

    z = beta ((log p - log p_ref)(chosen) - (log p - log p_ref)(rejected)).

    Args:
        logprob, reference: (P, 2) sums over the written tokens of the chosen and the rejected
            rollout, by the policy, with gradient, and by the reference.
        alive: (P,) bool; other groups add nothing.
    """
    ratio = logprob - reference
    z = torch.where(alive, beta * (ratio[:, 0] - ratio[:, 1]), 0.0)
    total = torch.where(alive, -F.logsigmoid(z), 0.0).sum()
    return total, z.detach()


def pair_loss(
    logprobs: Tensor,
    reference: Tensor,
    rollout: Tensor,
    rewards: Tensor,
    dead: Tensor,
    *,
    floor: float,
    beta: float,
) -> tuple[Tensor, dict[str, float]]:
    """`dpo_loss` of the best and the worst rollout of each group, and sums over groups for the log.

    The log shows the log ratios of both, because DPO can lower the probability of both while their
    distance grows.

    Args:
        logprobs, reference: (W,) of the written tokens.
        rollout: (W,) int64, the rollout 0..P*G-1 of each token.
        rewards, dead: (P, G), and (P,) bool.
        floor: least distance of the two rewards.
    """
    pair, alive = extremes(rewards, floor=floor)
    alive = alive & ~dead
    now, before = (
        summed_by_rollout(one, rollout, rewards.numel()).view(rewards.shape).gather(1, pair)
        for one in (logprobs, reference)
    )
    total, margin = dpo_loss(now, before, alive, beta=beta)
    ratio = torch.where(alive[:, None], (now - before).detach(), 0.0)
    return total, {
        "preference_loss": float(total.detach()),
        "preference_margin": float(margin.sum()),
        "chosen_log_ratio": float(ratio[:, 0].sum()),
        "rejected_log_ratio": float(ratio[:, 1].sum()),
    }
