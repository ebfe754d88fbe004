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
    section 5), distances in float32. Products only fall, so the best product outside a block
    bounds all of them from above. Each round takes the `block` best rows, picks greedily inside
    while the best product there is certainly the best of all, then updates every D with one
    matrix product.
    Ties go to the lowest row.

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
    pool = _Pool(_unit(vectors), weights)
    while len(pool.picked) < budget:
        pool.fold(pool.certified(block, budget - len(pool.picked)))
    return MaxMin(np.array(pool.picked, dtype=np.int64), np.array(pool.novelty))


class _Pool:
    """The rows with their distances to the picks so far."""

    def __init__(self, vectors: NDArray[np.float32], weights: Floats):
        self.vectors, self.weights = vectors, weights
        self.picked: list[int] = []
        self.novelty: list[float] = []
        self.distance = np.full(len(vectors), np.inf, dtype=np.float32)
        self.free = np.ones(len(vectors), dtype=bool)

    def certified(self, block: int, most: int) -> list[tuple[int, float]]:
        """Next picks (row, distance at that moment), at least one and at most `most`."""
        if not self.picked:
            return [(int(self.weights.argmax()), np.inf)]
        rows, limit, limit_row = self._block(block)
        near = self.distance[rows]
        cosine = self.vectors[rows] @ self.vectors[rows].T
        weights, free = self.weights[rows], np.ones(len(rows), dtype=bool)
        picks: list[tuple[int, float]] = []
        while len(picks) < min(most, len(rows)):
            product = np.where(free, weights * near, -1)
            best = int(product.argmax())  # rows ascend, so the first maximum is the lowest row
            if product[best] < limit or (product[best] == limit and rows[best] > limit_row):
                break
            picks.append((int(rows[best]), float(near[best])))
            free[best] = False
            near = np.minimum(near, _distance(cosine[:, best]))
        return picks

    def _block(self, block: int) -> tuple[NDArray[np.int64], float, int]:
        """Best rows, ascending; the best product outside and the first row that has it."""
        product = np.where(self.free, self.weights * self.distance, -1)
        if block >= len(product):
            return np.flatnonzero(self.free), -1.0, len(product)
        least = np.partition(product, -block)[-block]
        rows = np.flatnonzero(product > least)
        # Of the rows that tie with the least, the lowest belong to the block: they win ties.
        rows = np.union1d(rows, np.flatnonzero(product == least)[: block - len(rows)])
        product[rows], inside = -2, product[rows]
        limit_row = int(product.argmax())
        return rows[inside >= 0], float(product[limit_row]), limit_row

    def fold(self, picks: list[tuple[int, float]]) -> None:
        """Bring every distance up to date, and rate the novelty of the picks."""
        rows = [row for row, _ in picks]
        # Column t: the largest distance in the pool just before pick t.
        largest = np.zeros(len(picks), dtype=np.float32)
        chosen = self.vectors[rows].T.copy()
        for start in range(0, len(self.vectors), ROWS):
            part = slice(start, start + ROWS)
            steps = np.empty((len(self.distance[part]), len(picks) + 1), dtype=np.float32)
            steps[:, 0] = self.distance[part]
            steps[:, 1:] = _distance(self.vectors[part] @ chosen)
            np.minimum.accumulate(steps, axis=1, out=steps)
            largest = np.maximum(largest, steps[:, :-1].max(axis=0))
            self.distance[part] = steps[:, -1]
        self.distance[rows] = 0
        self.free[rows] = False
        for (row, distance), most in zip(picks, largest, strict=True):
            first = not self.picked
            self.novelty.append(1.0 if first else min(1.0, distance / max(float(most), 1e-12)))
            self.picked.append(row)


def _distance(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(np.float32(1) - cosine, np.float32(0))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = lengths("embeddings", vectors)
    if vectors.dtype == np.float32 and np.abs(norms - 1).max() < 1e-6:
        return vectors
    unit = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        part = slice(start, start + ROWS)
        unit[part] = vectors[part] / norms[part, None]
    return unit
