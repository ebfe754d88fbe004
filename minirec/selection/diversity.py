"""Greedy weighted MaxMin, exact, by certified blocks (method, section 5).

Products q_i D_i only fall as picks are made, so a stale product is an upper bound. Each round,
every shard of the pool offers the rows with the largest bounds, measured in float64; the driver
picks greedily among them while the best product there is certainly the best of all, and the
shards then fold the new picks into all bounds with one matrix product in the embeddings' own
precision. What float32 may be off by is part of the bounds, so the picks are those of float64,
whatever the number of shards and the size of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.selection.checks import Floats, lengths, matrix, nonnegative

Ids = NDArray[np.int64]
Ask = Callable[..., Sequence[Any]]
"""Calls the named method of every shard with the same arguments and returns all answers."""

ROWS = 16384
"""Rows of a shard that are folded at once; bounds the memory beside the embeddings."""

DIGITS = 12
"""Distances are rounded to as many: equal rows need not get equal last bits in float64."""


class MaxMin(NamedTuple):
    """The picks in the order in which they were made.

    indices: (k,) int64 rows of the embeddings.
    novelty: (k,) float64 in [0, 1], distance of a pick to the nearest pick before it, divided by
        the largest such distance in the pool at that moment; 1 for the first pick. The latter is
        known to the rounding of float32 only.
    """

    indices: Ids
    novelty: Floats


def maxmin(embeddings: ArrayLike, *, scores: ArrayLike, budget: int, block: int = 256) -> MaxMin:
    """Pick `budget` rows: the best score first, then always the largest q_i D_i.

    ``D_i = min over picked j of (1 - e_i . e_j)`` on unit-norm e (arXiv 2602.04278; method,
    section 5), to `DIGITS` decimals. Ties go to the lowest row. Beside the embeddings it holds the
    picks in float64 and about 50 bytes for each row.

    Args:
        embeddings: (N, d) of any length above 0; float32 and float64 are not copied.
        scores: (N,) q, finite, 0 or more.
        budget: k, rows to pick, 1..N.
        block: rows offered in a round; changes the speed, not the picks.

    Returns:
        The picks and their novelty.

    Raises:
        ValueError: a score is negative or not finite, a row is not finite or has length 0, the
            lengths differ, `budget` is outside 1..N, or `block` is below 1.
    """
    vectors, weights = checked(embeddings, scores, budget=budget, block=block)
    shard = Shard(vectors, weights)
    return greedy(lambda name, *args: [getattr(shard, name)(*args)], budget=budget, block=block)


def checked(
    embeddings: ArrayLike, scores: ArrayLike, *, budget: int, block: int
) -> tuple[NDArray[np.floating], Floats]:
    """Arguments of `maxmin` as arrays; raises what it says."""
    vectors = matrix("embeddings", embeddings)
    weights = nonnegative("scores", scores, rows=len(vectors))
    if not 1 <= budget <= len(vectors):
        raise ValueError(f"budget is {budget}; expected 1..{len(vectors)}, the rows of embeddings")
    if block < 1:
        raise ValueError(f"block is {block}; expected 1 or more")
    return vectors, weights


class Offer(NamedTuple):
    """Candidates of a shard; B rows, rising.

    rows: (B,) int64 rows of the pool.
    vectors: (B, d) float64, unit norm.
    weights: (B,) float64, the scores.
    distance: (B,) float64, to the nearest pick.
    bound: no other row of the shard has a larger product.
    """

    rows: Ids
    vectors: Floats
    weights: Floats
    distance: Floats
    bound: float

    def products(self) -> Floats:
        """(B,) float64, what the greedy choice compares."""
        return self.weights * self.distance


def greedy(ask: Ask, *, budget: int, block: int) -> MaxMin:
    """`maxmin` over the shards behind `ask`, which hold the pool in order of rows."""
    picks: list[int] = []
    novelty: list[float] = []
    while len(picks) < budget:
        offer, chosen, distance = _next(ask, most=budget - len(picks), block=block)
        rows = offer.rows[chosen]
        largest = np.max(ask("fold", rows, offer.vectors[chosen]), axis=0)
        picks += rows.tolist()
        novelty += np.minimum(1, np.array(distance) / np.maximum(largest, 1e-12)).tolist()
    return MaxMin(np.array(picks, dtype=np.int64), np.array(novelty))


def _next(ask: Ask, *, most: int, block: int) -> tuple[Offer, list[int], list[float]]:
    """An offer, the positions in it that are picked next, and their distances.

    Candidates that float32 cannot order are measured in float64; of equal ones the lowest row is
    picked.
    """
    offer = _best(ask("offer", block), block)
    chosen, distance = _certain(offer, most)
    if chosen:
        return offer, chosen, distance
    # Low enough for several picks: each must exceed what is not measured.
    least = float(np.sort(offer.products())[-(1 + len(offer.rows) // 4)])
    offer = _best(ask("contest", least, block), block)
    chosen, distance = _certain(offer, most)
    if chosen:
        return offer, chosen, distance
    best = float(offer.products().max())
    if best > 0:
        offer = _joined(ask("lowest", best))
        return offer, [0], [float(offer.distance[0])]
    offer = _joined(ask("rest", block))  # nothing but the order of rows is left to go by
    return offer, *_certain(offer, min(most, block))


def _joined(offers: Sequence[Offer]) -> Offer:
    """The offers of all shards as one."""
    if len(offers) == 1:
        return offers[0]
    *columns, bounds = zip(*offers, strict=True)
    rows, vectors, weights, distance = (np.concatenate(column) for column in columns)
    return Offer(rows, vectors, weights, distance, max(bounds))


def _best(offers: Sequence[Offer], block: int) -> Offer:
    """The `block` best candidates of all shards."""
    offer = _joined(offers)
    if len(offer.rows) <= block:
        return offer
    product = offer.products()
    order = np.argsort(-product, kind="stable")
    kept = np.sort(order[:block])
    rows, vectors, weights, distance, bound = offer
    bound = max(bound, float(product[order[block]]))
    return Offer(rows[kept], vectors[kept], weights[kept], distance[kept], bound)


def _certain(offer: Offer, most: int) -> tuple[list[int], list[float]]:
    """Greedy picks among the candidates while no other row of the pool can be better.

    Returns:
        At most `most` positions in the offer, and the distance of each when it was picked.
    """
    cosine = offer.vectors @ offer.vectors.T
    distance = offer.distance.copy()
    product = offer.weights * distance
    chosen: list[int] = []
    found: list[float] = []
    while len(chosen) < min(most, len(offer.rows)):
        best = int(product.argmax())  # rows rise, so the first of equals has the lowest
        if product[best] <= offer.bound:
            break
        chosen.append(best)
        found.append(float(distance[best]))
        np.minimum(distance, _distances(cosine[best]), out=distance)
        product = offer.weights * distance
        product[chosen] = -1
    return chosen, found


def _distances(cosine: Floats) -> Floats:
    return np.round(np.maximum(1 - cosine, 0), DIGITS)


class Shard:
    """Consecutive rows of the pool with bounds on their products.

    `nearest` holds the largest cosine with a pick in the precision of the embeddings, off by at
    most `error`; `exact` holds it in float64 for the first `stamp` blocks of picks, brought up to
    date only for rows that may win.
    """

    def __init__(self, vectors: NDArray[np.floating], weights: Floats, *, first: int = 0):
        """Args:
        vectors: (n, d) float32 or float64, not copied.
        weights: (n,) float64 scores.
        first: row of the pool that comes first here.

        Raises:
            ValueError: a row is not finite or has length 0.
        """
        self.weights, self.first = weights, first
        self.vectors, size = _with_lengths(vectors)
        self.inverse = (1 / size).astype(self.vectors.dtype)
        # Error of a dot product of unit vectors in any order of summation (Higham, Accuracy and
        # Stability of Numerical Algorithms, section 3.1), doubled for that of the lengths.
        rounding = (vectors.shape[1] + 8) * float(np.finfo(self.vectors.dtype).eps) / 2
        self.error = 2 * rounding / (1 - rounding) + 10.0**-DIGITS
        count = len(vectors)
        self.nearest = np.full(count, -1, dtype=self.vectors.dtype)
        self.exact = np.full(count, -1.0)
        self.stamp = np.zeros(count, dtype=np.int32)
        self.free = np.ones(count, dtype=bool)
        self.picks: list[Floats] = []

    def offer(self, count: int) -> Offer:
        """The `count` rows with the largest bounds."""
        bound = self._bounds()
        rows = np.arange(len(bound))
        if len(rows) > count:
            rows = np.sort(np.argpartition(bound, -count)[-count:])
        rows = rows[bound[rows] >= 0]
        bound[rows] = -1
        return self._offer(rows, float(bound.max()))

    def contest(self, least: float, count: int) -> Offer:
        """The `count` best of the rows whose products may reach `least`, all measured exactly."""
        bound = self._bounds()
        rows = np.flatnonzero(bound >= least)
        bound[rows] = -1
        product = self._products(rows)
        order = np.argsort(-product, kind="stable")
        left = float(product[order[count]]) if len(rows) > count else -1.0
        return self._offer(np.sort(rows[order[:count]]), max(left, float(bound.max())))

    def lowest(self, product: float) -> Offer:
        """The lowest row with this product or more, if there is one."""
        rows = np.flatnonzero(self._bounds() >= product)
        return self._offer(rows[self._products(rows) >= product][:1], -1.0)

    def rest(self, count: int) -> Offer:
        """The first `count` rows that are left."""
        return self._offer(np.flatnonzero(self.free)[:count], -1.0)

    def fold(self, rows: Ids, vectors: Floats) -> Floats:
        """Bring all bounds up to date with new picks.

        Args:
            rows: (m,) rows of the pool, in the order of picking.
            vectors: (m, d) float64, their unit vectors.

        Returns:
            (m,) float64, the largest distance in the shard just before each pick.
        """
        self.picks.append(vectors)
        chosen = vectors.astype(self.vectors.dtype)
        least = np.ones(len(rows))
        for start in range(0, len(self.vectors), ROWS):
            part = slice(start, start + ROWS)
            cosine = chosen @ self.vectors[part].T
            cosine *= self.inverse[part]
            nearest = self.nearest[part]
            for number, row in enumerate(cosine):
                least[number] = min(least[number], nearest.min())
                np.maximum(nearest, row, out=nearest)
        mine = rows[(rows >= self.first) & (rows < self.first + len(self.free))] - self.first
        self.free[mine] = False
        return 1 - least

    def _bounds(self) -> Floats:
        """(n,) float64, no product is larger; -1 for the picks."""
        bound = np.maximum(1 - self.nearest.astype(np.float64), 0)
        bound += self.error
        bound *= self.weights
        bound[~self.free] = -1
        return bound

    def _offer(self, rows: Ids, bound: float) -> Offer:
        vectors = self._refresh(rows)
        return Offer(rows + self.first, vectors, self.weights[rows], self._distance(rows), bound)

    def _distance(self, rows: Ids) -> Floats:
        return _distances(self.exact[rows])

    def _products(self, rows: Ids) -> Floats:
        """Exact products of any number of rows, brought up to date piece by piece."""
        for start in range(0, len(rows), ROWS):
            self._refresh(rows[start : start + ROWS])
        return self.weights[rows] * self._distance(rows)

    def _refresh(self, rows: Ids) -> Floats:
        """Bring `exact` of the rows up to date; returns their unit vectors (n, d) float64."""
        vectors = self.vectors[rows].astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        stamps = self.stamp[rows]
        for number in range(stamps.min(initial=len(self.picks)), len(self.picks)):
            behind = np.flatnonzero(stamps <= number)
            mine = vectors if len(behind) == len(rows) else vectors[behind]
            nearest = (mine @ self.picks[number].T).max(axis=1)
            self.exact[rows[behind]] = np.maximum(self.exact[rows[behind]], nearest)
        self.stamp[rows] = len(self.picks)
        return vectors


def _with_lengths(
    vectors: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The vectors and the length of each.

    They are copied, as float64 of length 1, only if a length is so extreme that its square
    leaves the range of float32.
    """
    size = np.empty(len(vectors), dtype=vectors.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, len(vectors), ROWS):
            part = vectors[start : start + ROWS]
            size[start : start + ROWS] = np.sqrt(np.einsum("nd,nd->n", part, part))
    if ((size > 1e-12) & (size < 1e12)).all():
        return vectors, size
    exact = lengths("embeddings", vectors)
    return vectors / exact[:, None], np.ones(len(vectors))
