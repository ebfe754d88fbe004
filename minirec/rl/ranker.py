"""Ranks of targets in the item table, for rewards, features and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.prior.prior import Prior
from minirec.rl.cells import Cells
from minirec.rl.group import Group
from minirec.rl.reward import Ranking, item_scores, rank_target

SCORES = 1 << 26
"""Most scores that a ranking holds at a time: 256 MiB in float32, 64 prompts by a million items.

A prompt is compared with the whole catalogue in one product. In products of different shapes, equal
vectors could get scores with different last bits, and a tie with the target would be lost.
"""


@dataclass(frozen=True)
class Targets:
    """B targets (B,) int64, and the excluded items of each, (B, V).

    prior: (B, V) float32, added to the scores of the policy; None: nothing is added.
    following: (B, n - 1) int64, the later items that count as relevant too, -1 in rows with fewer;
        None: the target alone is relevant.
    """

    target: Tensor
    excluded: Cells
    prior: Cells | None = None
    following: Tensor | None = None

    @classmethod
    def of(
        cls,
        asked: Sequence[Sample | Group],
        *,
        items: int,
        device: torch.device | str = "cpu",
        prior: Prior | None = None,
    ) -> Targets:
        """The targets of samples or groups in a catalogue of `items`.

        Raises:
            ValueError: an excluded item is not in the catalogue.
        """
        ids = [one.target for one in asked]
        excluded = Cells.excluded([one.excluded for one in asked], ids, catalogue=items)
        scores = None if prior is None else Cells.of(prior(asked)).to(device)
        target = torch.tensor(ids, dtype=torch.int64)
        following = _padded([one.following for one in asked])
        later = None if following is None else following.to(device)
        return cls(target.to(device), excluded.to(device), scores, later)

    def take(self, rows: Tensor) -> Targets:
        """The targets of rows (n,) int64."""
        prior = None if self.prior is None else self.prior.take(rows)
        following = None if self.following is None else self.following[rows]
        return Targets(self.target[rows], self.excluded.take(rows), prior, following)


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

    def rank(self, hidden: Tensor, targets: Targets, *, scores: int = SCORES) -> Ranking:
        """Rank the targets for hidden states (B * n, d): n consecutive rows per target.

        Args:
            scores: most scores in memory; with fewer than V, one row is ranked at a time.

        Raises:
            ValueError: a score is NaN.
        """
        n = len(hidden) // max(1, len(targets.target))
        at = torch.arange(len(targets.target), device=self.table.device).repeat_interleave(n)
        size = max(1, scores // len(self.table))
        parts = [
            self._rank(hidden[start : start + size], targets.take(at[start : start + size]))
            for start in range(0, max(1, len(hidden)), size)
        ]
        return Ranking(*(torch.cat(part) for part in zip(*map(_fields, parts), strict=True)))

    def best(self, hidden: Tensor, targets: Targets, *, scores: int = SCORES) -> Tensor:
        """The item (B * n,) int64 with the highest score that is not excluded, of equal ones that
        with the lowest id; the targets are not read. Arguments as in `rank`."""
        n = len(hidden) // max(1, len(targets.target))
        at = torch.arange(len(targets.target), device=self.table.device).repeat_interleave(n)
        size = max(1, scores // len(self.table))
        found = []
        for start in range(0, max(1, len(hidden)), size):
            part = slice(start, start + size)
            one = self._scores(hidden[part], targets.take(at[part]))
            found.append((one == one.max(1, keepdim=True).values).int().argmax(1))
        return torch.cat(found)

    def _rank(self, hidden: Tensor, targets: Targets) -> Ranking:
        return rank_target(self._scores(hidden, targets), target=targets.target)

    def _scores(self, hidden: Tensor, targets: Targets) -> Tensor:
        scores = item_scores(hidden, items=self.table, temperature=self.temperature)
        if targets.prior is not None:
            targets.prior.add_to(scores)
        targets.excluded.fill(scores, -torch.inf)
        return scores


def _padded(lists: Sequence[Sequence[int]]) -> Tensor | None:
    """(B, n) int64 with -1 behind shorter lists; None if all are empty."""
    most = max(map(len, lists), default=0)
    if not most:
        return None
    return torch.tensor([[*one, *[-1] * (most - len(one))] for one in lists], dtype=torch.int64)


def _fields(ranking: Ranking) -> tuple[Tensor, Tensor]:
    return ranking.rank, ranking.probability
