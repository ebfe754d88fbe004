"""Ranks of targets in the item table, for rewards, features and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.rl.group import Group
from minirec.rl.reward import Ranking, excluded_mask, item_scores, rank_target


@dataclass(frozen=True)
class Targets:
    """B targets (B,) int64, and a mask (B, V) bool of the excluded items."""

    target: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, asked: Sequence[Sample | Group], *, items: int, device: torch.device | str = "cpu"
    ) -> Targets:
        """The targets of samples or groups in a catalogue of `items`."""
        target = torch.tensor([one.target for one in asked], dtype=torch.int64)
        mask = excluded_mask([one.excluded for one in asked], target, items=items)
        return cls(target.to(device), mask.to(device))

    def take(self, rows: Tensor) -> Targets:
        """The targets of rows (n,) int64."""
        return Targets(self.target[rows], self.mask[rows])


@dataclass(frozen=True)
class Ranker:
    """The item table (V, d), unit norm, without gradient, and the temperature of its softmax."""

    table: Tensor
    temperature: float

    def targets(self, asked: Sequence[Sample | Group]) -> Targets:
        """The targets of samples or groups, on the device of the table."""
        return Targets.of(asked, items=len(self.table), device=self.table.device)

    def rank(self, hidden: Tensor, targets: Targets) -> Ranking:
        """Rank the targets for hidden states (B * n, d): n consecutive rows per target.

        Raises:
            ValueError: a score is NaN.
        """
        n = len(hidden) // max(1, len(targets.target))
        return rank_target(
            item_scores(hidden, items=self.table, temperature=self.temperature),
            target=targets.target.repeat_interleave(n),
            mask=targets.mask.repeat_interleave(n, 0),
        )
