"""Greedy weighted MaxMin, exact, by certified blocks (method, section 5)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.selection.checks import Floats, lengths, matrix, nonnegative

ROWS = 16384
"""Rows of the pool that are folded at once; bounds the memory beside the embeddings."""


class MaxMin(NamedTuple):
    """The picks in the order in which they were made.

    indices: (k,) int64 rows of the embeddings.
    novelty: (k,) float64 in [0, 1], distance of a pick to the nearest pick before it, divided by
        the largest such distance in the pool at that moment; 1 for the first pick.
    """

    indices: NDArray[np.int64]
    novelty: Floats


def maxmin(embeddings: ArrayLike, *, scores: ArrayLike, budget: int, block: int = 256) -> MaxMin:
    """Pick `budget` rows: the best score first, then always the largest q_i D_i.

    ``D_i = min over picked j of (1 - e_i . e_j)`` on unit-norm e (arXiv 2602.04278; method,
    section 5). Products only fall, so the best product outside a block bounds all of them from
    above. Each round takes the `block` best rows, picks greedily inside while the best product
    there is certainly the best of all, then updates every D with one matrix product. All rows
    are measured in float32; the few that may win are measured again in float64, and a pick is
    made only if the float32 error cannot change it: the picks are those of float64. Ties go to
    the lowest row.

    Args:
        embeddings: (N, d) of any length above 0; copied only if not float32 of unit length.
        scores: (N,) q, finite, 0 or more.
        budget: k, rows to pick, 1..N.
        block: rows in a block; changes the speed, not the picks.

    Returns:
        The picks and their novelty.

    Raises:
        ValueError: a score is negative or not finite, a row is not finite or has length 0, the
            lengths differ, `budget` is outside 1..N, or `block` is below 1.
    """
    vectors = matrix("embeddings", embeddings)
    weights = nonnegative("scores", scores, rows=len(vectors))
    if not 1 <= budget <= len(vectors):
        raise ValueError(f"budget is {budget}; expected 1..{len(vectors)}, the rows of embeddings")
    if block < 1:
        raise ValueError(f"block is {block}; expected 1 or more")
    pool = _Pool(vectors, lengths("embeddings", vectors), weights)
    while len(pool.picked) < budget:
        pool.fold(pool.certified(block, budget - len(pool.picked)))
    return MaxMin(np.array(pool.picked, dtype=np.int64), np.array(pool.novelty))


class _Pool:
    """The rows with their distances to the picks so far.

    `near` holds float32 distances of all rows, off by at most `error`. `exact` holds float64
    distances to the first `stamp` picks, brought up to date only for rows that may win.
    """

    def __init__(self, vectors: NDArray[np.floating], norms: Floats, weights: Floats):
        self.vectors, self.norms, self.weights = vectors, norms, weights
        self.unit = _unit(vectors, norms)
        # Twice the rounding seen in float32 dot products of unit vectors, which grows with the
        # root of their length as errors of either sign do; the worst case grows with d.
        self.error = 1e-6 + 2.4e-7 * vectors.shape[1] ** 0.5
        self.picked: list[int] = []
        self.novelty: list[float] = []
        self.near = np.full(len(vectors), np.inf, dtype=np.float32)
        self.exact = np.full(len(vectors), np.inf)
        self.stamp = np.zeros(len(vectors), dtype=np.int64)
        self.free = np.ones(len(vectors), dtype=bool)

    def certified(self, block: int, most: int) -> list[tuple[int, float]]:
        """Next picks (row, distance at that moment), at least one and at most `most`."""
        if not self.picked:
            return [(int(self.weights.argmax()), np.inf)]
        bound = np.where(self.free, self.weights * (self.near + self.error), -1.0)
        rows = np.flatnonzero(self.free)
        if len(rows) > block:
            rows = np.sort(np.argpartition(-bound, block - 1)[:block])
        outside = bound.copy()
        outside[rows] = -1
        limit = outside.max()
        vectors = self._refresh(rows)
        cosine = vectors @ vectors.T
        distance, weights = self.exact[rows], self.weights[rows]
        free = np.ones(len(rows), dtype=bool)
        picks: list[tuple[int, float]] = []
        while len(picks) < min(most, len(rows)):
            product = np.where(free, weights * distance, -1.0)
            best = int(product.argmax())  # rows ascend, so the first maximum is the lowest row
            if product[best] <= limit:
                break
            picks.append((int(rows[best]), float(distance[best])))
            free[best] = False
            distance = np.minimum(distance, np.maximum(1 - cosine[:, best], 0))
        return picks or [self._closest_race(bound, float((weights * distance).max()))]

    def _closest_race(self, bound: Floats, least: float) -> tuple[int, float]:
        """The pick among all rows that float32 cannot part from the best of the block."""
        rows = np.flatnonzero(self.free & (bound >= least))
        for start in range(0, len(rows), ROWS):
            self._refresh(rows[start : start + ROWS])
        row = int(rows[(self.weights[rows] * self.exact[rows]).argmax()])
        return row, float(self.exact[row])

    def _refresh(self, rows: NDArray[np.int64]) -> Floats:
        """Bring `exact` of the rows up to date; returns their unit vectors in float64."""
        vectors = self._float64(rows)
        stamps = self.stamp[rows]
        for stamp in np.unique(stamps):
            if stamp < len(self.picked):
                which = np.flatnonzero(stamps == stamp)
                cosine = vectors[which] @ self._float64(self.picked[stamp:]).T
                news = np.maximum(1 - cosine.max(axis=1), 0)
                self.exact[rows[which]] = np.minimum(self.exact[rows[which]], news)
        self.stamp[rows] = len(self.picked)
        return vectors

    def _float64(self, rows: NDArray[np.int64] | list[int]) -> Floats:
        return self.vectors[rows].astype(np.float64) / self.norms[rows, None]

    def fold(self, picks: list[tuple[int, float]]) -> None:
        """Bring every distance up to date, and rate the novelty of the picks."""
        rows = [row for row, _ in picks]
        # Column t: the largest distance in the pool just before pick t.
        largest = np.zeros(len(picks), dtype=np.float32)
        chosen = self.unit[rows].T.copy()
        for start in range(0, len(self.unit), ROWS):
            part = slice(start, start + ROWS)
            steps = np.empty((len(self.near[part]), len(picks) + 1), dtype=np.float32)
            steps[:, 0] = self.near[part]
            steps[:, 1:] = np.maximum(np.float32(1) - self.unit[part] @ chosen, np.float32(0))
            np.minimum.accumulate(steps, axis=1, out=steps)
            largest = np.maximum(largest, steps[:, :-1].max(axis=0))
            self.near[part] = steps[:, -1]
        self.near[rows] = 0
        self.free[rows] = False
        for (row, distance), most in zip(picks, largest, strict=True):
            first = not self.picked
            self.novelty.append(1.0 if first else min(1.0, distance / max(float(most), 1e-12)))
            self.picked.append(row)


def _unit(vectors: NDArray[np.floating], norms: Floats) -> NDArray[np.float32]:
    unit = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        part = slice(start, start + ROWS)
        unit[part] = vectors[part] / norms[part, None]
    return unit
