"""A summary of a selection for the user, in a few lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minirec.selection.checks import Floats
from minirec.selection.features import Features
from minirec.selection.pipeline import Scores, plain_top
from minirec.selection.value import rank_correlation

PERCENTILES = (5, 25, 50, 75, 95)


def summary(
    features: Features, scores: Scores, chosen: NDArray[np.int64], pool: NDArray[np.int64]
) -> list[str]:
    """Lines about dead samples, values, and the influence of each criterion.

    `chosen` and `pool` are the rows that were selected and that could be selected.
    """
    value, count = scores["value"], len(chosen)
    dead = (features.hits == 0) & ~features.screened
    lines = [
        f"kept {count:,} of {len(features):,} samples; "
        f"dead (no rollout above chance): {dead.mean():.0%} of all, "
        f"{dead[chosen].mean():.0%} of the selection; "
        f"overlap with the plain top {count:,}: "
        f"{_overlap(chosen, plain_top(value, pool, count)):.0%}"
    ]
    if features.screened.any():
        lines.append(
            f"screened and not rolled out: {features.screened.mean():.0%} of all, "
            f"{features.screened[chosen].mean():.0%} of the selection"
        )
    names = "/".join(map(str, PERCENTILES))
    lines.append(
        f"value at {names}%: {_percentiles(value)} of all, "
        f"{_percentiles(value[chosen])} of the selection"
    )
    for name in ("learnability", "representativeness"):
        column = scores[name]
        if np.isnan(column).any():
            continue
        rho = rank_correlation(column, value)
        shown = "undefined (all are equal)" if rho is None else f"{rho:.2f}"
        lines.append(
            f"{name}: rank correlation with the value {shown}; the selection "
            f"shares {_overlap(chosen, plain_top(column, pool, count)):.0%} with the top "
            f"{count:,} by it alone"
        )
    return lines


def _overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Share of `first` that is in `second`."""
    return len(np.intersect1d(first, second)) / len(first)


def _percentiles(values: Floats) -> str:
    return " ".join(f"{x:.2f}" for x in np.percentile(values, PERCENTILES))
