"""Value of a sample: learnability and representativeness in one number (method, section 5)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from minirec.selection.checks import Floats, nonnegative


def combine(
    learnability: ArrayLike,
    representativeness: ArrayLike,
    *,
    alpha: float = 1.0,
    fusion: Literal["sum", "rank"] = "sum",
) -> Floats:
    """Value q from the two criteria.

    ``sum``: ``alpha L + R`` (arXiv 2602.04278). ``rank``: the mean, weighted alpha to 1, of the two
    normalised ranks, so that neither criterion wins by its spread alone. Method, section 5.

    Args:
        learnability: (N,) L, 0 or more.
        representativeness: (N,) R, 0 or more.
        alpha: weight of L, 0 or more.
        fusion: ``sum`` or ``rank``.

    Returns:
        (N,) float64, 0 or more; in [0, 1] for ``rank``.

    Raises:
        ValueError: a value is not finite or negative, lengths differ, `alpha` or `fusion` is wrong.
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
    """Rank of each value from 0 (lowest) to 1 (highest); equal values share their mean rank.

    Args:
        values: (N,) finite numbers.

    Returns:
        (N,) float64 in [0, 1]; 0.5 if N is 1.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return np.array([0.5])
    return (rankdata(array) - 1) / (len(array) - 1)
