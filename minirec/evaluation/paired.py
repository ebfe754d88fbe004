"""Differences between methods, tested over seeds and users (method, sections 8 and 9)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minirec.evaluation.ranking import bootstrap_means, interval, two_sided

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
LEAST = 100
"""Resamples for each difference that is tested. R resamples give a p of at least 2 / (R + 1), which
Holm multiplies by the number of differences."""


@dataclass(frozen=True)
class Standing:
    """Mean NDCG@10 of a method, with its 95% interval over seeds and users."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A method minus a reference: mean, 95% interval, bootstrap p, p after Holm's correction."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float


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


def standing(ndcg: Floats, *, users: Codes, resamples: int, seed: int) -> Standing:
    """The standing of (S, N) NDCG@10, a row for each seed, a column for each sample of `users`."""
    low, high = interval(resampled(ndcg, users=users, resamples=resamples, seed=seed))
    return Standing(float(ndcg.mean()), low, high)


def differences(
    ndcg: Mapping[K, Floats], reference: Floats, *, users: Codes, resamples: int, seed: int
) -> dict[K, Difference]:
    """Differences of the methods from the reference, which are tested together.

    Args:
        ndcg: (S, N) by method, one or more; seeds and samples are those of the reference, in order.
        reference: (S, N).
        users: (N,) code of the user of each sample.
        resamples: of the bootstrap; raised to `LEAST` for each method.
        seed: of the bootstrap; resamples are the same for all, so that differences are paired.

    Raises:
        ValueError: shapes differ.
    """
    for name, values in ndcg.items():
        if values.shape != reference.shape:
            raise ValueError(f"{name} has shape {values.shape}; expected {reference.shape}")
    shifted = np.stack([values - reference for values in ndcg.values()])
    drawn = resampled(shifted, users=users, resamples=max(resamples, LEAST * len(ndcg)), seed=seed)
    p = [two_sided(values) for values in drawn.T]
    rows = zip(ndcg, shifted, drawn.T, p, holm(p), strict=True)
    return {
        name: Difference(float(difference.mean()), *interval(values), one, corrected)
        for name, difference, values, one, corrected in rows
    }


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = largest
    return corrected
