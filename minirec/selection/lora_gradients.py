"""Projected LoRA gradient of the GRPO loss of each sample (method, section 4).

With T_i written tokens in the rollouts j of sample i, its loss is

    -(1/T_i) sum over j and written tokens t of A_ij log pi(t)  -  A_best log p_y,

with the factor of the target in A, as in training (method, section 1).
This is GRPO at ratio 1, where the clip is inactive (`minirec.rl.grpo`). The candidates of p are the
whole detached catalogue without the excluded items. The loss does not depend on other samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minirec.model.recommender import Policy
from minirec.prior.prior import Prior
from minirec.rl import grpo
from minirec.rl.candidates import frozen_catalogue
from minirec.rl.group import Group, written_tokens
from minirec.rl.ranker import Targets
from minirec.selection.projection import Projector


@dataclass(frozen=True)
class SampleLoss:
    """The loss of rewarded groups; `table` (V, d) is the detached item table.

    factors: (V,) of each item as a target; None: 1. The rewards of a group are without them.
    """

    table: Tensor
    temperature: float
    advantage_floor: float
    scale_advantage: bool
    prior: Prior | None = None
    factors: NDArray[np.float64] | None = None

    def advantages(self, group: Group) -> Tensor:
        """(G,) float64; equal float32 rewards have an advantage of exactly 0."""
        rewards = torch.tensor([group.rewards], dtype=torch.float64)
        if not rewards.numel():
            return rewards[0]
        found = grpo.advantages(rewards, floor=self.advantage_floor, scale=self.scale_advantage)[0]
        return found if self.factors is None else found * float(self.factors[group.target])

    def __call__(self, policy: Policy, groups: Sequence[Group]) -> Tensor:
        """Sum of the losses of groups with 1 or more rollouts; a scalar with gradient."""
        hidden, logprobs = policy(groups=groups, alone=True)
        advantages = [self.advantages(g) for g in groups]
        # A_ij / T_i of each rollout, float64
        weights = torch.cat(
            [a / max(1, sum(g.written)) for g, a in zip(groups, advantages, strict=True)]
        )
        written, rollout = (torch.tensor(x, dtype=torch.int64) for x in written_tokens(groups))
        tokens = logprobs[written.to(hidden.device)]
        return -(weights[rollout].to(tokens) * tokens).sum() + self._item(
            hidden, groups, advantages
        )

    def _item(self, hidden: Tensor, groups: Sequence[Group], advantages: list[Tensor]) -> Tensor:
        best = [int(grpo.best_rollouts(torch.tensor([g.rewards]))[0]) for g in groups]
        ends = itertools.accumulate(len(group.completions) for group in groups[:-1])
        rows = [start + rollout for start, rollout in zip([0, *ends], best, strict=True)]
        targets = Targets.of(groups, items=len(self.table), device=hidden.device, prior=self.prior)
        weight = torch.stack([a[rollout] for a, rollout in zip(advantages, best, strict=True)])
        rivals = frozen_catalogue(self.table.to(hidden), targets)
        loss, _ = grpo.item_loss(
            hidden[torch.tensor(rows, device=hidden.device)],
            candidates=rivals.vectors,
            target=rivals.target,
            excluded=rivals.excluded,
            advantage=weight.to(hidden),
            temperature=self.temperature,
            clip=grpo.Clip(),
            offset=rivals.offset,
            rest=rivals.rest,
        )
        return loss


def blocks(groups: Sequence[Group], *, loss: SampleLoss, micro_batch: int) -> Iterator[list[int]]:
    """Indices of the groups with a gradient, in micro-batches of similar sequence length.

    Groups without rollouts, and dead groups (all advantages 0), have no gradient.
    """
    live = [i for i, group in enumerate(groups) if loss.advantages(group).any()]
    live.sort(key=lambda i: (len(groups[i].prompt) + max(map(len, groups[i].completions)), i))
    for start in range(0, len(live), micro_batch):
        yield live[start : start + micro_batch]


def block_gradients(
    policy: Policy, projector: Projector, groups: Sequence[Group], *, loss: SampleLoss
) -> Tensor:
    """Projected gradients (P, dim) of P groups in one forward and backward pass.

    `projector` belongs to the policy's model.
    """
    owner = [i for i, group in enumerate(groups) for _ in group.completions]
    # The group of each row of the model's input.
    rows = range(len(groups)) if policy.packs(groups, alone=True) else owner
    return projector.collect(
        torch.tensor(rows, device=loss.table.device),
        samples=len(groups),
        forward_backward=lambda: loss(policy, groups).backward(),
    )


def gradients(
    policy: Policy,
    projector: Projector,
    groups: Sequence[Group],
    *,
    loss: SampleLoss,
    micro_batch: int,
) -> Tensor:
    """Projected gradients (N, dim) float32 of N groups, on the CPU; 0 for dead groups.

    Each is the gradient of the group's own loss and does not depend on `micro_batch`.
    """
    found = torch.zeros(len(groups), projector.dim)
    for rows in blocks(groups, loss=loss, micro_batch=micro_batch):
        part = block_gradients(policy, projector, [groups[i] for i in rows], loss=loss)
        found[rows] = part.float().cpu()
    return found
