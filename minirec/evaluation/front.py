"""Cost and quality of the settings of a sweep: Pareto front and recommended budget.

Quality is the mean validation NDCG@10 over seeds and samples. Cost is the mean total cost of a
trial over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.evaluation.outcomes import Outcome
from minirec.evaluation.paired import Bootstrap
from minirec.evaluation.ranking import interval

COSTS = ("rollouts", "seconds")


@dataclass(frozen=True)
class Choice:
    """The smallest budget within the tolerance of the best quality.

    difference: quality of `setting` minus quality of `best`, with its paired 95% interval.
    sure: the whole interval is within the tolerance.
    """

    setting: str
    best: str
    tolerance: float
    difference: float
    low: float
    high: float
    sure: bool


def pareto(cost: ArrayLike, quality: ArrayLike) -> NDArray[np.bool_]:
    """Points (P,) that no other point dominates.

    A point dominates another one if it costs no more, is no worse, and one of the two strictly.
    Equal points are on the front together.
    """
    costs, gains = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    no_worse = (costs[None] <= costs[:, None]) & (gains[None] >= gains[:, None])
    better = (costs[None] < costs[:, None]) | (gains[None] > gains[:, None])
    return np.asarray(~(no_worse & better).any(axis=1), dtype=np.bool_)


def fronts(outcomes: Sequence[Outcome]) -> dict[str, set[str]]:
    """The settings on the Pareto front for each of `COSTS`. All their seeds must be finished."""
    quality = [o.quality for o in outcomes]
    best = {unit: pareto([o.cost(unit) for o in outcomes], quality) for unit in COSTS}
    return {unit: {outcomes[i].setting for i in np.flatnonzero(best[unit])} for unit in COSTS}


def choose(outcomes: Sequence[Outcome], bootstrap: Bootstrap, *, tolerance: float) -> Choice:
    """The smallest budget whose quality is at least (1 - tolerance) times the best.

    Of settings with the same budget, the better one is chosen; ties go to the earlier one. All
    seeds of the settings must be finished.
    """
    best = max(outcomes, key=lambda o: o.quality)
    enough = [o for o in outcomes if o.quality >= (1 - tolerance) * best.quality]
    chosen = min(enough, key=lambda o: (o.samples, -o.quality))
    low, high = interval(bootstrap.means(chosen.ndcg) - bootstrap.means(best.ndcg))
    return Choice(
        setting=chosen.setting,
        best=best.setting,
        tolerance=tolerance,
        difference=chosen.quality - best.quality,
        low=low,
        high=high,
        sure=low >= -tolerance * best.quality,
    )
