"""Cost against quality of the settings of a sweep: Pareto front, and the smallest budget that does.

The quality of a setting is its mean validation NDCG@10 over seeds and samples; its cost the mean
total cost of a trial over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.evaluation.ranking import bootstrap_means, interval

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What the trials of one setting gave.

    ndcg: (S, N) NDCG@10, a row for each seed, a column for each validation sample; the samples
    are the same in all settings. rollouts, seconds: (S,) total cost of each trial.
    """

    setting: str
    budget: int
    ndcg: Floats
    rollouts: Floats
    seconds: Floats

    @property
    def quality(self) -> float:
        """Mean NDCG@10."""
        return float(self.ndcg.mean())


@dataclass(frozen=True)
class Point:
    """A setting: mean costs, quality with 95% interval, and whether it is on a front."""

    setting: str
    budget: int
    seeds: int
    rollouts: float
    seconds: float
    quality: float
    low: float
    high: float
    front_rollouts: bool
    front_seconds: bool


@dataclass(frozen=True)
class Choice:
    """The smallest budget within the tolerance of the best quality.

    difference: quality of `setting` minus that of `best`, with its paired 95% interval.
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
    """Points (P,) that no other point beats: none costs no more and gives no less, one of both
    strictly. Equal points are on the front together.
    """
    costs, gains = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    no_worse = (costs[None] <= costs[:, None]) & (gains[None] >= gains[:, None])
    better = (costs[None] < costs[:, None]) | (gains[None] > gains[:, None])
    return np.asarray(~(no_worse & better).any(axis=1), dtype=np.bool_)


def resampled(ndcg: Floats, *, users: Codes, resamples: int, seed: int) -> Floats:
    """Means (R, ...) of NDCG@10 (..., S, N) over resampled seeds and users, with replacement.

    `users` (N,) are the codes of the samples' users. The draws follow from `seed`, S and the number
    of users alone, so those of two settings with as many seeds are paired. With one seed only the
    users vary.
    """
    *settings, count, samples = ndcg.shape
    means = bootstrap_means(
        ndcg.reshape(-1, samples).T, users=users, resamples=resamples, seed=seed
    )
    by_seed = means.reshape(resamples, *settings, count)
    drawn = np.random.default_rng([seed, count]).integers(count, size=(resamples, count))
    return np.take_along_axis(
        by_seed, drawn.reshape(resamples, *[1] * len(settings), count), axis=-1
    ).mean(-1)


def points(outcomes: Sequence[Outcome], *, users: Codes, resamples: int, seed: int) -> list[Point]:
    """A point for each setting, in the order given, and the fronts among them.

    Args:
        outcomes: settings of which every seed has finished.
        users: (N,) code of the user of each sample.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    rollouts = [float(o.rollouts.mean()) for o in outcomes]
    seconds = [float(o.seconds.mean()) for o in outcomes]
    quality = [o.quality for o in outcomes]
    front_rollouts, front_seconds = pareto(rollouts, quality), pareto(seconds, quality)
    found = []
    for i, outcome in enumerate(outcomes):
        low, high = interval(resampled(outcome.ndcg, users=users, resamples=resamples, seed=seed))
        found.append(
            Point(
                setting=outcome.setting,
                budget=outcome.budget,
                seeds=len(outcome.ndcg),
                rollouts=rollouts[i],
                seconds=seconds[i],
                quality=quality[i],
                low=low,
                high=high,
                front_rollouts=bool(front_rollouts[i]),
                front_seconds=bool(front_seconds[i]),
            )
        )
    return found


def choose(
    outcomes: Sequence[Outcome], *, tolerance: float, users: Codes, resamples: int, seed: int
) -> Choice:
    """The smallest budget whose quality is at least (1 - tolerance) times the best.

    Of settings with the same budget the better one; ties go to the earlier one.

    Args:
        outcomes: one or more settings of which every seed has finished.
        tolerance: relative, 0 to 1.
        users: (N,) code of the user of each sample.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    best = max(outcomes, key=lambda o: o.quality)
    enough = [o for o in outcomes if o.quality >= (1 - tolerance) * best.quality]
    chosen = min(enough, key=lambda o: (o.budget, -o.quality))
    means = [resampled(o.ndcg, users=users, resamples=resamples, seed=seed) for o in (chosen, best)]
    low, high = interval(means[0] - means[1])
    return Choice(
        setting=chosen.setting,
        best=best.setting,
        tolerance=tolerance,
        difference=chosen.quality - best.quality,
        low=low,
        high=high,
        sure=low >= -tolerance * best.quality,
    )
