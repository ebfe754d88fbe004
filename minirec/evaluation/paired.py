"""Methods set against each other over seeds and samples (method, sections 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minirec.evaluation.front import resampled
from minirec.evaluation.ranking import interval, two_sided

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """Mean NDCG@10 of a method, with its 95% interval over seeds and samples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of a method from a reference: 95% interval, bootstrap p, and p after Holm's correction."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float


def standing(ndcg: Floats, *, resamples: int, seed: int) -> Standing:
    """Of (S, N) NDCG@10, a row for each seed, a column for each sample."""
    low, high = interval(resampled(ndcg, resamples=resamples, seed=seed))
    return Standing(float(ndcg.mean()), low, high)


def differences(
    ndcg: Mapping[str, Floats], reference: Floats, *, resamples: int, seed: int
) -> dict[str, Difference]:
    """Each method minus the reference, tested together.

    Args:
        ndcg: (S, N) by method; seeds and samples are those of the reference, in order.
        reference: (S, N).
        resamples: of the bootstrap.
        seed: of the bootstrap; resamples are the same for all, so that differences are paired.

    Raises:
        ValueError: shapes differ.
    """
    base = resampled(reference, resamples=resamples, seed=seed)
    drawn = {}
    for name, values in ndcg.items():
        if values.shape != reference.shape:
            raise ValueError(f"{name} has shape {values.shape}; expected {reference.shape}")
        drawn[name] = resampled(values, resamples=resamples, seed=seed) - base
    p = {name: two_sided(values) for name, values in drawn.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    return {
        name: Difference(
            float(ndcg[name].mean() - reference.mean()),
            *interval(values),
            p[name],
            corrected[name],
        )
        for name, values in drawn.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = largest
    return corrected
