"""Divides a step among the workers, and the part of a worker into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from actors.training.activations import Activations
from minirec.config.training import TrainingConfig
from minirec.model.micro_batches import micro_batches, padded
from minirec.model.sharing import Sharing
from minirec.rl.group import Group, Unit
from minirec.rl.rollouts import Objective, live_tokens


class Passes:
    """The passes of this worker; the result of a step depends on them only by rounding."""

    def __init__(self, training: TrainingConfig, sharing: Sharing | None, activations: Activations):
        """Args:
        sharing: how the policy reads groups (`Policy.sharing`).
        activations: of the policy, which must fit into memory.
        """
        self.training, self.sharing, self.activations = training, sharing, activations
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def divide(
        self, groups: Sequence[Group], *, beside: int
    ) -> list[tuple[list[int], list[Group]]]:
        """The micro-batches of this worker: positions in its share of the step, and the groups.

        All workers have as many as the one that needs the most, because they reduce gradients
        together.

        Args:
            beside: tokens of the largest other pass of the step with a gradient.
        """
        size = len(groups) // self.world
        shares = [groups[i : i + size] for i in range(0, len(groups), size)]
        most = max(len(self._divided(share)) for share in shares)
        divided = [self._divided(share, at_least=most) for share in shares]
        own = max(
            padded([share[i].lengths for i in numbers], self.sharing)
            for share, parts in zip(shares, divided, strict=True)
            for numbers in parts
        )
        row = max(len(sequence) for group in groups for sequence in group.sequences)
        self.activations.make_fit(max(own, beside), row=row)
        mine = shares[self.rank]
        return [(numbers, [mine[i] for i in numbers]) for numbers in divided[self.rank]]

    def _divided(self, share: Sequence[Group], *, at_least: int = 1) -> list[list[int]]:
        return micro_batches(
            [group.lengths for group in share],
            prompts=self.training.prompts_per_micro_batch,
            tokens=self.training.tokens_per_micro_batch,
            sharing=self.sharing,
            at_least=at_least,
        )

    def live_tokens(
        self,
        engine: Any,
        micro_batches: Sequence[Sequence[Group]],
        table: torch.Tensor | None,
        objective: Objective,
    ) -> dict[Unit, int]:
        """The divisor that replaces the number of tokens with `training.live_tokens`."""
        if not self.training.live_tokens or table is None:
            return {}
        own = sum(
            live_tokens(engine, micro, table=table, objective=objective) for micro in micro_batches
        )
        total = torch.tensor(own, device=engine.device)
        dist.all_reduce(total)
        return {"tokens": max(1, int(total))}
