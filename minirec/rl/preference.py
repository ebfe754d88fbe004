"""Direct preference optimisation of rollouts, with the recommendation head as the judge.

After DPO4Rec (arXiv 2410.05939), which takes the best and the worst of several answers by a
recommender; its formulas could not be checked. The loss is that of DPO (Rafailov et al. 2023, arXiv
2305.18290).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.rl.group import Choice, Group
from minirec.rl.grpo import best_rollouts


def extremes(rewards: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """The best and the worst rollout of each group, (P, 2) int64, and whether they differ, (P,).

    Of equal rewards (P, G), the first counts. They differ if the rewards are at least `floor`
    apart.
    """
    pair = torch.stack([best_rollouts(rewards), best_rollouts(-rewards)], 1)
    chosen = rewards.gather(1, pair)
    return pair, chosen[:, 0] - chosen[:, 1] >= floor


def choices(
    groups: Sequence[Group], rewards: Tensor, dead: Tensor, *, floor: float
) -> list[Choice]:
    """The choice of each group: that of the first step on its rollouts, as in LoRR (arXiv
    2508.06412), which passes several times over pairs that stay as they are.

    The head that gives the rewards is in training. If a later step chose again, the rejected
    rollout could become the chosen one, and the steps would work against each other.

    Args:
        rewards, dead: (P, G), and (P,) bool, of the head of this step; read where a group has no
            choice yet.
        floor: least distance of the two rewards of a pair.
    """
    pairs, apart = extremes(rewards, floor=floor)
    columns = (*pairs.T.tolist(), apart.tolist(), dead.tolist())
    now = [Choice(*one) for one in zip(*columns, strict=True)]
    return [group.choice or one for group, one in zip(groups, now, strict=True)]


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
    chosen: Sequence[Choice],
    *,
    per_prompt: int,
    beta: float,
) -> tuple[Tensor, dict[str, float]]:
    """`dpo_loss` of the best and the worst rollout of each group, and sums over groups for the log.

    The log shows the log ratios of both, because DPO can lower the probability of both while their
    distance grows.

    Args:
        logprobs, reference: (W,) of the written tokens.
        rollout: (W,) int64, the rollout 0..P*G-1 of each token.
        chosen: of the P groups, see `choices`. per_prompt: G.
    """
    device = logprobs.device
    pair = torch.tensor([(one.best, one.worst) for one in chosen], device=device)
    alive = torch.tensor([one.apart and not one.dead for one in chosen], device=device)
    shape = (len(chosen), per_prompt)
    now, before = (
        summed_by_rollout(one, rollout, len(chosen) * per_prompt).view(shape).gather(1, pair)
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
