"""Representativeness, and the value of a sample (method, sections 4 and 5)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, spearmanr

from minirec.selection.checks import Floats, lengths, matrix, nonnegative, scaled


def alignment(
    vectors: ArrayLike, *, mean: ArrayLike | None = None, rows_at_once: int = 8192
) -> Floats:
    """Cosine of each vector (N, d) with the mean vector, as (cos + 1) / 2, min-max scaled.

    ``R_i = (cos(d_i, mean_j d_j) + 1) / 2``, then ``(x - min) / (max - min + 1e-12)``: arXiv
    2602.04278; method, section 4. The mean is over the vectors, not over unit vectors; if it is
    zero, all results are 0. `mean` (d,) replaces it, if given. Returns (N,) float64 in [0, 1]. Sums
    are float64 over blocks of `rows_at_once`, so the result does not depend on how the vectors were
    batched.

    Raises:
        ValueError: not (N, d), or a row is not finite or has length 0.
    """
    array = matrix("vectors", vectors)
    norms = lengths("vectors", array, rows_at_once=rows_at_once)
    parts = [slice(start, start + rows_at_once) for start in range(0, len(array), rows_at_once)]
    if mean is None:
        mean = np.sum([array[part].sum(axis=0, dtype=np.float64) for part in parts], axis=0)
    mean = np.asarray(mean, dtype=np.float64)
    size = np.linalg.norm(mean)
    if size == 0:
        return np.zeros(len(array))
    along = np.concatenate([array[part].astype(np.float64) @ (mean / size) for part in parts])
    return scaled((np.clip(along / norms, -1, 1) + 1) / 2)


def combine(
    learnability: ArrayLike,
    representativeness: ArrayLike,
    *,
    alpha: float = 1.0,
    fusion: Literal["sum", "rank"] = "sum",
) -> Floats:
    """Combine learnability L and representativeness R, (N,) and 0 or more, to the value q.

    ``sum``: ``alpha L + R`` (arXiv 2602.04278). ``rank``: mean of the two normalised ranks with
    weights alpha and 1, so that both criteria have the same spread, in [0, 1]. Method, section 5.
    Returns (N,) float64, 0 or more.

    Raises:
        ValueError: a value is negative or not finite, the lengths differ, or `alpha` or `fusion` is
            invalid.
    """
    first = nonnegative("learnability", learnability)
    second = nonnegative("representativeness", representativeness, rows=len(first))
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha is {alpha:g}; expected 0 or more")
    if fusion == "sum":
        return alpha * first + second
    if fusion == "rank":
        return (alpha * normalised_rank(first) + normalised_rank(second)) / (alpha + 1)
    raise ValueError(f"fusion is {fusion!r}; expected 'sum' or 'rank'")


def normalised_rank(values: ArrayLike) -> Floats:
    """Rank of each value (N,) from 0 (lowest) to 1 (highest), or 0.5 if N is 1.

    Equal values get their mean rank.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return np.array([0.5])
    return (rankdata(array) - 1) / (len(array) - 1)


def rank_correlation(first: Floats, second: Floats) -> float | None:
    """Spearman's rank correlation of two (N,) arrays; None if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
