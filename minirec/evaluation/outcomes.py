"""What the trials of a bench gave: the seeds of one setting, and what each spent on the way."""

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
    """M validations of one training, with the total cost until each, and the cost of all of it.

    ndcg: (M,) NDCG@10. steps, samples: (M,) optimizer steps and distinct samples before it.
    rollouts, seconds: (M,) spent before it, with what is charged. cost: columns of a row.
    """

    ndcg: list[float]
    steps: list[int]
    samples: list[int]
    rollouts: list[int]
    seconds: list[float]
    cost: Row


def reached(curve: Curve, *, goal: float) -> Row:
    """The columns ``reached_*`` of a row; all are None where no validation reached the goal."""
    first = next((i for i, ndcg in enumerate(curve.ndcg) if ndcg >= goal), None)
    spent: dict[str, Sequence[float]] = {
        "reached_step": curve.steps,
        "reached_samples": curve.samples,
        "reached_rollouts": curve.rollouts,
        "reached_seconds": curve.seconds,
    }
    return {name: None if first is None else values[first] for name, values in spent.items()}


@dataclass(frozen=True)
class Outcome:
    """The trials of one setting that have finished, by seed.

    rows: S trials. ndcg: (S, N) NDCG@10, a row for each trial, a column for each sample; the
    samples are the same in all settings of a bench.
    """

    rows: Sequence[Row]
    ndcg: Floats

    @property
    def setting(self) -> str:
        """Its name."""
        return str(self.rows[0]["setting"])

    @property
    def method(self) -> str:
        """The selection method, the same for all seeds."""
        return str(self.rows[0]["method"])

    @property
    def samples(self) -> int:
        """Samples that were trained on, as many for all seeds."""
        return int(self.rows[0]["samples"])

    @property
    def seeds(self) -> set[int]:
        """Seeds that have finished."""
        return {row["seed"] for row in self.rows}

    @property
    def quality(self) -> float:
        """Mean NDCG@10."""
        return float(self.ndcg.mean())

    def cost(self, unit: str) -> float:
        """Mean total cost of a trial in ``rollouts`` or ``seconds``."""
        return float(np.mean([row[unit] for row in self.rows]))

    def mean(self, column: str) -> float | None:
        """Mean over the seeds that have a value; None: none has."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return float(np.mean(values)) if values else None


def outcomes(rows: Sequence[Row], ndcg: Mapping[str, Floats]) -> list[Outcome]:
    """Finished trials by setting, in the order in which the settings first appear.

    Args:
        rows: finished trials.
        ndcg: (N,) NDCG@10 by trial.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["setting"], []).append(row)
    found = []
    for group in groups.values():
        by_seed = sorted(group, key=lambda row: row["seed"])
        found.append(Outcome(by_seed, np.stack([ndcg[row["trial"]] for row in by_seed])))
    return found
