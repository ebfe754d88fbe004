"""Greedy weighted MaxMin, exact, in certified blocks (method, section 5).

Products q_i D_i only decrease as picks are made, so an old product is an upper bound. In each
round, every shard offers the rows with the largest bounds, with float64 distances. The driver picks
greedily among them as long as the best product exceeds the bounds of all other rows. The shards
then update all bounds with one matrix product in the precision of the embeddings. The bounds
include the float32 rounding error, so the picks are those of float64 for any number of shards and
any block size.
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
"""Rows of a shard processed at a time. Limits the memory besides the embeddings."""

DIGITS = 12
"""Decimals of a distance. Rounding gives equal rows equal distances."""


class MaxMin(NamedTuple):
    """The picks in the order they were made.

    indices: (k,) int64 rows of the embeddings.
    novelty: (k,) float64 in [0, 1], distance of a pick to the nearest earlier pick, divided by the
    largest such distance in the pool at that time (known to float32 precision); 1 for the first
    pick.
    """

    indices: Ids
    novelty: Floats


def maxmin(embeddings: ArrayLike, *, scores: ArrayLike, budget: int, block: int = 256) -> MaxMin:
    """Pick `budget` of N rows: the best score first, then always the largest q_i D_i.

    ``D_i = min over picked j of (1 - e_i . e_j)`` on unit-norm e (arXiv 2602.04278; method, section
    5), rounded to `DIGITS` decimals. Ties go to the lowest row. `embeddings` (N, d) have any length
    above 0, and `scores` (N,) are q, 0 or more. `block` rows are offered in a round; it changes the
    speed, not the picks. Memory besides the embeddings: the picks in float64 and about 50 bytes per
    row.

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
    """The arguments of `maxmin` as arrays; raises the same errors."""
    vectors = matrix("embeddings", embeddings)
    weights = nonnegative("scores", scores, rows=len(vectors))
    if not 1 <= budget <= len(vectors):
        raise ValueError(f"budget is {budget}; expected 1..{len(vectors)}, the rows of embeddings")
    if block < 1:
        raise ValueError(f"block is {block}; expected 1 or more")
    return vectors, weights


class Offer(NamedTuple):
    """B candidate rows of a shard, ascending.

    rows: (B,) int64 rows of the pool.
    vectors: (B, d) float64, unit norm.
    weights: (B,) float64, the scores.
    distance: (B,) float64, to the nearest pick.
    bound: upper bound of the products of the shard's other rows.
    """

    rows: Ids
    vectors: Floats
    weights: Floats
    distance: Floats
    bound: float

    def products(self) -> Floats:
        """(B,) float64, the values that the greedy choice compares."""
        return self.weights * self.distance


def greedy(ask: Ask, *, budget: int, block: int) -> MaxMin:
    """`maxmin` over the shards behind `ask`, which hold the pool in row order."""
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
    """An offer, the positions in it to pick next, and their distances.

    Candidates that float32 cannot rank are measured in float64. Ties go to the lowest row.
    """
    offer = _best(ask("offer", block), block)
    chosen, distance = _certain(offer, most)
    if chosen:
        return offer, chosen, distance
    # A low limit allows several picks: each must exceed the rows that are not measured.
    least = float(np.sort(offer.products())[-(1 + len(offer.rows) // 4)])
    offer = _best(ask("contest", least, block), block)
    chosen, distance = _certain(offer, most)
    if chosen:
        return offer, chosen, distance
    best = float(offer.products().max())
    if best > 0:
        offer = _joined(ask("lowest", best))
        return offer, [0], [float(offer.distance[0])]
    offer = _joined(ask("rest", block))  # all products are 0: the lowest rows are picked
    return offer, *_certain(offer, min(most, block))


def _joined(offers: Sequence[Offer]) -> Offer:
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
    """Greedy picks among the candidates as long as no other row can be better.

    Returns:
        At most `most` positions in the offer, and the distance of each when it was picked.
    """
    between = _distances(offer.vectors @ offer.vectors.T)
    distance = offer.distance.copy()
    product = offer.weights * distance
    picked = np.zeros(len(distance), dtype=bool)
    chosen: list[int] = []
    found: list[float] = []
    while len(chosen) < min(most, len(offer.rows)):
        best = int(product.argmax())  # rows ascend, so a tie goes to the lowest row
        if product[best] <= offer.bound:
            break
        chosen.append(best)
        found.append(float(distance[best]))
        picked[best] = True
        np.minimum(distance, between[best], out=distance)
        product = offer.weights * distance
        product[picked] = -1
    return chosen, found


def _distances(cosine: Floats) -> Floats:
    return np.round(np.maximum(1 - cosine, 0), DIGITS)


class Shard:
    """Consecutive rows of the pool with upper bounds of their products.

    `nearest` holds the largest cosine with a pick in the precision of the embeddings, with an error
    of at most `error`. `exact` holds it in float64 for the first `stamp` blocks of picks; it is
    updated only for rows that may win.
    """

    def __init__(self, vectors: NDArray[np.floating], weights: Floats, *, first: int = 0):
        """Args:
            vectors: (n, d) float32 or float64, not copied.
            weights: (n,) float64 scores.
            first: row of the pool that is the first one of this shard.

        Raises:
            ValueError: a row is not finite or has length 0.
        """
        self.weights, self.first = weights, first
        self.vectors, size = _with_lengths(vectors)
        self.inverse = (1 / size).astype(self.vectors.dtype)
        # Error of a dot product of unit vectors in any summation order (Higham, Accuracy and
        # Stability of Numerical Algorithms, section 3.1), doubled for the error of the lengths.
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
        """The `count` best of the rows whose bounds reach `least`, all measured exactly."""
        bound = self._bounds()
        rows = np.flatnonzero(bound >= least)
        bound[rows] = -1
        product = self._products(rows)
        order = np.argsort(-product, kind="stable")
        left = float(product[order[count]]) if len(rows) > count else -1.0
        return self._offer(np.sort(rows[order[:count]]), max(left, float(bound.max())))

    def lowest(self, product: float) -> Offer:
        """The lowest row with at least this product, if there is one."""
        rows = np.flatnonzero(self._bounds() >= product)
        return self._offer(rows[self._products(rows) >= product][:1], -1.0)

    def rest(self, count: int) -> Offer:
        """The first `count` rows that are not picked."""
        return self._offer(np.flatnonzero(self.free)[:count], -1.0)

    def fold(self, rows: Ids, vectors: Floats) -> Floats:
        """Update all bounds with new picks.

        `rows` (m,) are rows of the pool in the order of picking, `vectors` (m, d) float64 their
        unit vectors. Returns the largest distance in the shard just before each pick, (m,) float64.
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
        """(n,) float64 upper bounds of the products; -1 for the picks."""
        bound = np.maximum(1 - self.nearest.astype(np.float64), 0)
        bound += self.error
        bound *= self.weights
        bound[~self.free] = -1
        return bound

    def _offer(self, rows: Ids, bound: float) -> Offer:
        vectors = self._refresh(rows)
        distance = _distances(self.exact[rows])
        return Offer(rows + self.first, vectors, self.weights[rows], distance, bound)

    def _products(self, rows: Ids) -> Floats:
        """Exact products of the rows, computed in pieces of `ROWS`."""
        for start in range(0, len(rows), ROWS):
            self._refresh(rows[start : start + ROWS])
        return self.weights[rows] * _distances(self.exact[rows])

    def _refresh(self, rows: Ids) -> Floats:
        """Update `exact` of the rows; returns their unit vectors (n, d) float64."""
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

    Only if the square of a length overflows float32, the vectors are copied as float64 unit
    vectors.
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
