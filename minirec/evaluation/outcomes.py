"""Results of the trials of a sweep or comparison: the seeds of each setting, and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, Any]
"""A trial, as in `minirec.corpus.schema.TRIALS`."""


@dataclass(frozen=True)
class Curve:
    """M validations of one training, with the cost until each of them.

    ndcg: (M,) NDCG@10. steps, samples: (M,) optimizer steps and distinct samples. rollouts,
    seconds, tokens (forward-equivalent): (M,) including charged stages. cost: columns of a row, for
    the whole training.
    """

    ndcg: list[float]
    steps: list[int]
    samples: list[int]
    rollouts: list[int]
    seconds: list[float]
    tokens: list[int]
    cost: Row


def reached(curve: Curve, *, goal: float) -> Row:
    """The columns ``reached_*`` of a row; all None if no validation reached the goal."""
    first = next((i for i, ndcg in enumerate(curve.ndcg) if ndcg >= goal), None)
    spent = (curve.steps, curve.samples, curve.rollouts, curve.seconds, curve.tokens)
    units = ("step", "samples", "rollouts", "seconds", "tokens")
    names = [f"reached_{unit}" for unit in units]
    return dict(zip(names, [None if first is None else x[first] for x in spent], strict=True))


@dataclass(frozen=True)
class Outcome:
    """The finished trials of one setting, by seed.

    rows: S trials. ndcg: (S, N) NDCG@10 of each trial on each sample; all settings have the same
    samples.
    """

    rows: Sequence[Row]
    ndcg: Floats

    @property
    def setting(self) -> str:
        return str(self.rows[0]["setting"])

    @property
    def method(self) -> str:
        return str(self.rows[0]["method"])

    @property
    def variant(self) -> str | None:
        """The variant; None for a method."""
        return self.rows[0]["variant"]

    @property
    def samples(self) -> int:
        """Number of training samples, the same for all seeds."""
        return int(self.rows[0]["samples"])

    @property
    def seeds(self) -> set[int]:
        return {row["seed"] for row in self.rows}

    @property
    def quality(self) -> float:
        """Mean NDCG@10."""
        return float(self.ndcg.mean())

    def cost(self, unit: str) -> float:
        """Mean total cost of a trial in ``rollouts``, ``seconds`` or ``forward_tokens``."""
        return float(np.mean([row[unit] for row in self.rows]))

    def mean(self, column: str) -> float | None:
        """Mean over the seeds that have a value; None if none has."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return float(np.mean(values)) if values else None


def outcomes(rows: Sequence[Row], ndcg: Mapping[str, Floats]) -> list[Outcome]:
    """Outcomes of finished trials, in the order in which their settings first appear.

    `ndcg` holds the (N,) NDCG@10 of each trial.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["setting"], []).append(row)
    found = []
    for group in groups.values():
        by_seed = sorted(group, key=lambda row: row["seed"])
        found.append(Outcome(by_seed, np.stack([ndcg[row["trial"]] for row in by_seed])))
    return found
