"""The places of the methods of a comparison, from its trials (method, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minirec.evaluation.outcomes import Outcome, Row
from minirec.evaluation.paired import Bootstrap, Difference, Standing, differences, standing
from minirec.trials.trial import FULL, WHOLE


@dataclass(frozen=True)
class Place:
    """A method at a budget, over its seeds.

    standing: test NDCG@10. differences: by reference; None if the reference is missing or is this
    method. full: full data, whose total cost is the unit of `share`; None if not trained.
    """

    outcome: Outcome
    standing: Standing
    differences: dict[str, Difference | None]
    full: Outcome | None

    @property
    def reached(self) -> list[Row]:
        """The seeds that reached the goal."""
        return [row for row in self.outcome.rows if row["reached_step"] is not None]

    def share(self, unit: str) -> float | None:
        """Median cost until the goal was reached, as a share of the total cost of full data.

        `unit` is ``rollouts`` or ``seconds``. None if no seed reached the goal, or full data was
        not trained.
        """
        whole = self.full.mean(unit) if self.full else None
        if not self.reached or not whole:
            return None
        return float(np.median([row[f"reached_{unit}"] for row in self.reached])) / whole


@dataclass(frozen=True)
class Race:
    """The places of one table, by samples and then by quality; full data is last."""

    table: str
    references: list[str]
    places: list[Place]


def race(
    outcomes: Sequence[Outcome], bootstrap: Bootstrap, *, table: str, references: Sequence[str]
) -> Race:
    """All methods at all budgets of one table, ``steps`` or ``epochs``.

    Differences are tested against each existing reference at the same budget (`full` and
    `supervised` have no budget), with Holm's correction over all methods and budgets. A setting
    with a failed seed has no difference, because its seeds would not be paired. `outcomes` may hold
    other tables.
    """
    shown = [o for o in outcomes if o.rows[0]["table"] in (table, "")]
    methods = {o.method for o in shown}
    references = [name for name in references if name in methods]
    seeds: set[int] = set().union(*(o.seeds for o in shown))
    whole = [o for o in shown if o.seeds == seeds]
    against = {name: _against(name, whole, bootstrap) for name in references}
    full = next((o for o in shown if o.method == FULL), None)
    places = [
        Place(
            outcome,
            standing(outcome.ndcg, bootstrap),
            {name: against[name].get(outcome.setting) for name in references},
            full,
        )
        for outcome in shown
    ]
    places.sort(key=lambda p: (p.outcome.method == FULL, p.outcome.samples, -p.standing.mean))
    return Race(table, references, places)


def _against(name: str, whole: Sequence[Outcome], bootstrap: Bootstrap) -> dict[str, Difference]:
    """Differences from a reference, by setting."""
    shifted = {
        one.setting: one.ndcg - other.ndcg
        for one in whole
        for other in whole
        if other.method == name != one.method and (name in WHOLE or other.samples == one.samples)
    }
    if not shifted:
        return {}
    zero = np.zeros_like(next(iter(shifted.values())))
    return differences(shifted, zero, bootstrap)
