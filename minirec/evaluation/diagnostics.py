"""Why one selection trains better: what selections share, and how well scores predict quality."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from minirec.evaluation.ranking import interval

Ids = NDArray[np.int64]
Overlaps = Mapping[tuple[str, str], float | None]
LEAST_RUNS = 10
"""Fewest random subsets for a rank correlation; of fewer it says nothing."""


def shared(first: Ids, second: Ids) -> float:
    """Share of the smaller selection that is in the other, 0 to 1."""
    return len(np.intersect1d(first, second)) / max(1, min(len(first), len(second)))


def overlaps(chosen: Mapping[str, Mapping[int, Ids]]) -> dict[tuple[str, str], float | None]:
    """The share of samples that each pair of methods has in common at one budget.

    Args:
        chosen: ids by method and seed.

    Returns:
        For two methods the mean of `shared` over the seeds that both have; for a method and itself
        the mean over pairs of its seeds. None: no such seeds.
    """
    found: dict[tuple[str, str], float | None] = {}
    for one, other in itertools.product(chosen, repeat=2):
        if one == other:
            pairs = list(itertools.combinations(chosen[one].values(), 2))
        else:
            both = [seed for seed in chosen[one] if seed in chosen[other]]
            pairs = [(chosen[one][seed], chosen[other][seed]) for seed in both]
        values = [shared(a, b) for a, b in pairs]
        found[one, other] = float(np.mean(values)) if values else None
    return found


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of predicted and measured quality over R runs, with its 95% interval."""

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
    """How well the sum of a score over a random subset predicts what training on it gives.

    The linear datamodeling score (Park et al., "TRAK", 2023, section 2) with one target, the mean
    quality, and subsets of one size: Spearman's rank correlation between the mean score of a
    subset and the measured quality. Resamples are of the runs.

    Args:
        score: (N,) of each sample.
        chosen: R arrays of rows of `score`, drawn without looking at it.
        quality: R measured values.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        None below `LEAST_RUNS` runs, or where all predictions or all measured values are the same.

    Raises:
        ValueError: numbers of runs differ.
    """
    if len(chosen) != len(quality):
        raise ValueError(f"{len(quality)} values of quality for {len(chosen)} subsets")
    measured = np.asarray(quality, dtype=np.float64)
    predicted = np.array([score[rows].mean() for rows in chosen])
    if len(measured) < LEAST_RUNS or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None
    draws = np.random.default_rng(seed).integers(len(measured), size=(resamples, len(measured)))
    drawn = np.array([_spearman(predicted[rows], measured[rows]) for rows in draws])
    return Correlation(_spearman(predicted, measured), *interval(drawn), len(measured))


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """0 where one side is constant, which happens in resamples of few runs."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)
