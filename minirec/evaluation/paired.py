"""Differences between methods, tested over seeds and users (method, sections 8 and 9)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minirec.evaluation.ranking import bootstrap_means, interval, two_sided

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]
LEAST = 100
"""Resamples per tested difference. R resamples give p of at least 2 / (R + 1), which Holm
multiplies by the number of differences."""


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of seeds and users, the same for all settings, so differences are paired.

    users: (N,) user code of each sample.
    """

    users: NDArray[np.int64]
    resamples: int
    seed: int

    def means(self, ndcg: Floats) -> Floats:
        """Means (R, ...) of NDCG@10 (..., S, N) over seeds and users, drawn with replacement.

        The draws depend only on `seed`, S and the number of users. With one seed only users vary.
        """
        *settings, count, samples = ndcg.shape
        columns = ndcg.reshape(-1, samples).T
        means = bootstrap_means(columns, users=self.users, resamples=self.resamples, seed=self.seed)
        by_seed = means.reshape(self.resamples, *settings, count)
        generator = np.random.default_rng([self.seed, count])
        drawn = generator.integers(count, size=(self.resamples, count))
        drawn = drawn.reshape(self.resamples, *[1] * len(settings), count)
        return np.take_along_axis(by_seed, drawn, axis=-1).mean(-1)


@dataclass(frozen=True)
class Standing:
    """Mean NDCG@10 of a setting, with its 95% interval over seeds and users."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Standing):
    """A method minus a reference, with its bootstrap p, and p after Holm's correction."""

    p: float
    p_holm: float


def standing(ndcg: Floats, bootstrap: Bootstrap) -> Standing:
    """The standing of (S, N) NDCG@10: one row per seed, one column per sample."""
    return Standing(float(ndcg.mean()), *interval(bootstrap.means(ndcg)))


def differences(
    ndcg: Mapping[K, Floats], reference: Floats, bootstrap: Bootstrap
) -> dict[K, Difference]:
    """Differences of methods (S, N) from a reference (S, N), tested together.

    Seeds and samples are the same in all, in order. The resamples of the bootstrap are raised to
    `LEAST` for each method.

    Raises:
        ValueError: the shapes differ.
    """
    for name, values in ndcg.items():
        if values.shape != reference.shape:
            raise ValueError(f"{name} has shape {values.shape}; expected {reference.shape}")
    shifted = np.stack([values - reference for values in ndcg.values()])
    enough = max(bootstrap.resamples, LEAST * len(ndcg))
    drawn = replace(bootstrap, resamples=enough).means(shifted)
    p = [two_sided(values) for values in drawn.T]
    rows = zip(ndcg, shifted, drawn.T, p, holm(p), strict=True)
    return {name: Difference(float(d.mean()), *interval(r), *ps) for name, d, r, *ps in rows}


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = largest
    return corrected
