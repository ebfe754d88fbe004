"""Gradient of the GRPO loss of each sample by the LoRA weights, projected (method, section 4).

The loss of sample i depends on no other sample. With T_i written tokens in its rollouts j,

    -(1/T_i) sum over j and written tokens t of A_ij log pi(t)  -  A_best log p_y,

that is GRPO at ratio 1, where the clip is inactive (`minirec.rl.grpo`); the candidates of p are the
whole catalogue, detached, without the excluded items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.model.sharing import Sharing
from minirec.rl import grpo
from minirec.rl.reward import excluded_mask
from minirec.rl.step import Forward
from minirec.selection.projection import Projector


@dataclass(frozen=True)
class ScoredGroup:
    """A prompt with its G rollouts and their rewards; G may be 0.

    completions end with the answer marker; written counts the tokens that the engine wrote, which
    alone enter the token loss. excluded holds the items that do not compete with the target.
    """

    prompt: list[int]
    completions: list[list[int]]
    written: list[int]
    rewards: list[float]
    excluded: list[int]
    target: int

    @classmethod
    def of(cls, sample: Sample, **rollouts: Any) -> ScoredGroup:
        """The group of a sample; `rollouts` are the other attributes."""
        return cls(excluded=sample.excluded, target=sample.target, **rollouts)


@dataclass(frozen=True)
class SampleLoss:
    """What the loss needs beside the groups: the detached item table (V, d) and settings."""

    table: Tensor
    temperature: float
    advantage_floor: float
    scale_advantage: bool

    def advantages(self, group: ScoredGroup) -> Tensor:
        """(G,) float64, in which equal float32 rewards have advantage 0 exactly."""
        rewards = torch.tensor([group.rewards], dtype=torch.float64)
        if not rewards.numel():
            return rewards[0]
        return grpo.advantages(rewards, floor=self.advantage_floor, scale=self.scale_advantage)[0]

    def __call__(
        self, forward: Forward, groups: Sequence[ScoredGroup], *, shared: bool = False
    ) -> Tensor:
        """Sum of the losses of the groups; a scalar with gradient. Each has a rollout or more.

        Args:
            shared: each prompt is read once for all its rollouts, which changes rounding only.
        """
        sequences, starts, rollouts = _laid_out(groups)
        hidden, logprobs = forward(sequences, starts, rollouts if shared else None)
        assert logprobs is not None
        advantages = [self.advantages(g) for g in groups]
        weights = _token_weights(groups, advantages).to(logprobs)
        return -(weights * logprobs).sum() + self._item(hidden, groups, advantages)

    def _item(
        self, hidden: Tensor, groups: Sequence[ScoredGroup], advantages: list[Tensor]
    ) -> Tensor:
        best = [int(grpo.best_rollouts(torch.tensor([g.rewards]))[0]) for g in groups]
        rows, offset = [], 0
        for group, rollout in zip(groups, best, strict=True):
            rows.append(offset + rollout)
            offset += len(group.completions)
        target = torch.tensor([g.target for g in groups])
        mask = excluded_mask([g.excluded for g in groups], target, items=len(self.table))
        weight = torch.stack([a[rollout] for a, rollout in zip(advantages, best, strict=True)])
        loss, _ = grpo.item_loss(
            hidden[torch.tensor(rows, device=hidden.device)],
            candidates=self.table.to(hidden),
            target=target.to(hidden.device),
            excluded=mask.to(hidden.device),
            advantage=weight.to(hidden),
            temperature=self.temperature,
            clip=grpo.Clip(),
        )
        return loss


def _laid_out(groups: Sequence[ScoredGroup]) -> tuple[list[list[int]], list[int], list[int]]:
    """The arguments of a forward pass: sequences, their starts, and the sizes of the groups."""
    return (
        [g.prompt + c for g in groups for c in g.completions],
        [len(g.prompt) for g in groups for _ in g.completions],
        [len(g.completions) for g in groups],
    )


def _token_weights(groups: Sequence[ScoredGroup], advantages: list[Tensor]) -> Tensor:
    """A_ij / T_i of each completion token, 0 where the marker was appended; float64."""
    parts = []
    for group, advantage in zip(groups, advantages, strict=True):
        tokens = max(1, sum(group.written))
        for completion, written, a in zip(
            group.completions, group.written, advantage.tolist(), strict=True
        ):
            weights = torch.zeros(len(completion), dtype=torch.float64)
            weights[:written] = a / tokens
            parts.append(weights)
    return torch.cat(parts)


def blocks(
    groups: Sequence[ScoredGroup], *, loss: SampleLoss, micro_batch: int
) -> Iterator[list[int]]:
    """Indices of the groups that have a gradient, in micro-batches of sequences of like length.

    A dead group, whose advantages are 0, has none; nor has one without rollouts.
    """
    live = [i for i, group in enumerate(groups) if loss.advantages(group).any()]
    live.sort(key=lambda i: (len(groups[i].prompt) + max(map(len, groups[i].completions)), i))
    for start in range(0, len(live), micro_batch):
        yield live[start : start + micro_batch]


def block_gradients(
    forward: Forward,
    projector: Projector,
    groups: Sequence[ScoredGroup],
    *,
    loss: SampleLoss,
    shared: bool,
) -> Tensor:
    """Projected gradients (P, dim) of P groups by one forward and backward pass.

    Args:
        forward: `Policy.forward`, or an engine around it, of the model of `projector`.
        shared: see `SampleLoss`.
    """
    owner = [i for i, group in enumerate(groups) for _ in group.completions]
    rows = torch.tensor(range(len(groups)) if shared else owner, device=loss.table.device)
    return projector.collect(
        rows,
        samples=len(groups),
        forward_backward=lambda: loss(forward, groups, shared=shared).backward(),
    )


def gradients(
    forward: Forward,
    projector: Projector,
    groups: Sequence[ScoredGroup],
    *,
    loss: SampleLoss,
    sharing: Sharing | None,
    micro_batch: int,
) -> Tensor:
    """Projected gradients (N, dim) float32 of N groups, on the CPU; 0 for dead groups.

    Each is that of the sum of the loss over the group's rollouts, whatever the micro-batch.

    Args:
        sharing: says where prompts are shared (`Policy.sharing`); None: nowhere.
    """
    found = torch.zeros(len(groups), projector.dim)
    for rows in blocks(groups, loss=loss, micro_batch=micro_batch):
        block = [groups[i] for i in rows]
        shared = sharing is not None and sharing.saves(*_laid_out(block))
        part = block_gradients(forward, projector, block, loss=loss, shared=shared)
        found[rows] = part.float().cpu()
    return found
