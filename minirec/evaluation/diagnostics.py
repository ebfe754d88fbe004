"""Why one selection trains better: overlaps of selections, and how well scores predict quality."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minirec.evaluation.ranking import interval
from minirec.selection.value import rank_correlation

Ids = NDArray[np.int64]
Overlaps = Mapping[tuple[str, str], float | None]
LEAST_RUNS = 10
"""Minimum number of random subsets for a rank correlation."""


def shared(first: Ids, second: Ids) -> float:
    """Share of the smaller selection that is also in the other one, 0 to 1."""
    return len(np.intersect1d(first, second)) / max(1, min(len(first), len(second)))


def overlaps(chosen: Mapping[str, Mapping[int, Ids]]) -> dict[tuple[str, str], float | None]:
    """Mean of `shared` for each pair of methods; `chosen` holds ids by method and seed.

    For two methods it is the mean over common seeds; for a method and itself, the mean over pairs
    of its seeds. None if there are no such seeds.
    """
    found: dict[tuple[str, str], float | None] = {}
    for one, other in itertools.product(chosen, repeat=2):
        pairs = [(chosen[one][s], chosen[other][s]) for s in chosen[one] if s in chosen[other]]
        if one == other:
            pairs = list(itertools.combinations(chosen[one].values(), 2))
        values = [shared(a, b) for a, b in pairs]
        found[one, other] = float(np.mean(values)) if values else None
    return found


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of predicted and measured quality over R runs, with 95% interval."""

    correlation: float
    low: float
    high: float
    runs: int


def datamodel_score(
    score: NDArray[np.float64],
    chosen: Sequence[NDArray[np.intp]],
    quality: Sequence[float],
    *,
    resamples: int,
    seed: int,
) -> Correlation | None:
    """How well the sum of a score over a random subset predicts the result of training on it.

    The linear datamodeling score (Park et al., "TRAK", 2023, section 2) with one target, the mean
    quality, and subsets of one size: Spearman's rank correlation of the mean score and the measured
    quality of R subsets. `score` is (N,), `chosen` has R arrays of its rows, drawn independently of
    it, and `quality` has R values. The bootstrap resamples runs. None below `LEAST_RUNS` runs, or
    if all predictions or all measured values are equal.

    Raises:
        ValueError: the numbers of runs differ.
    """
    if len(chosen) != len(quality):
        raise ValueError(f"{len(quality)} values of quality for {len(chosen)} subsets")
    measured = np.asarray(quality, dtype=np.float64)
    predicted = np.array([score[rows].mean() for rows in chosen])
    correlation = rank_correlation(predicted, measured)
    if len(measured) < LEAST_RUNS or correlation is None:
        return None
    draws = np.random.default_rng(seed).integers(len(measured), size=(resamples, len(measured)))
    # One side may be constant in a resample of few runs; its correlation counts as 0.
    drawn = [rank_correlation(predicted[rows], measured[rows]) or 0.0 for rows in draws]
    return Correlation(correlation, *interval(np.array(drawn)), len(measured))
