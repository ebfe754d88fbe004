"""Ranks of targets in the item table, for rewards, features and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.prior.prior import Prior
from minirec.rl.group import Group
from minirec.rl.reward import Ranking, excluded_mask, item_scores, rank_target


@dataclass(frozen=True)
class Targets:
    """B targets (B,) int64, and a mask (B, V) bool of the excluded items.

    prior: (B, V) float32, added to the scores of the policy; None: nothing is added.
    """

    target: Tensor
    mask: Tensor
    prior: Tensor | None = None

    @classmethod
    def of(
        cls,
        asked: Sequence[Sample | Group],
        *,
        items: int,
        device: torch.device | str = "cpu",
        prior: Prior | None = None,
    ) -> Targets:
        """The targets of samples or groups in a catalogue of `items`."""
        target = torch.tensor([one.target for one in asked], dtype=torch.int64)
        mask = excluded_mask([one.excluded for one in asked], target, items=items)
        scores = None if prior is None else torch.from_numpy(prior(asked)).to(device)
        return cls(target.to(device), mask.to(device), scores)

    def take(self, rows: Tensor) -> Targets:
        """The targets of rows (n,) int64."""
        prior = None if self.prior is None else self.prior[rows]
        return Targets(self.target[rows], self.mask[rows], prior)

    def repeated(self, n: int) -> Targets:
        """Each target `n` times."""
        rows = torch.arange(len(self.target), device=self.target.device)
        return self.take(rows.repeat_interleave(n))


@dataclass(frozen=True)
class Ranker:
    """The item table (V, d), unit norm, without gradient, the temperature of its softmax, and the
    collaborative prior, if any."""

    table: Tensor
    temperature: float
    prior: Prior | None = None

    def targets(self, asked: Sequence[Sample | Group]) -> Targets:
        """The targets of samples or groups, on the device of the table."""
        device = self.table.device
        return Targets.of(asked, items=len(self.table), device=device, prior=self.prior)

    def rank(self, hidden: Tensor, targets: Targets) -> Ranking:
        """Rank the targets for hidden states (B * n, d): n consecutive rows per target.

        Raises:
            ValueError: a score is NaN.
        """
        n = len(hidden) // max(1, len(targets.target))
        each = targets if n == 1 else targets.repeated(n)
        scores = item_scores(hidden, items=self.table, temperature=self.temperature)
        if each.prior is not None:
            scores += each.prior
        return rank_target(scores, target=each.target, mask=each.mask)
