"""References that need no LLM: popularity, item-to-item co-occurrence (method, section 9), titles.

A reference is a function ``(known, history) -> (scores, ties)``. `history` holds B lists of items,
oldest first. scores (B, V) float64 order the catalogue, and ties (V,) float64 order items with
equal scores. `reference_ranks` turns them into ranks. To add a reference, write a function here and
add it to `REFERENCES`; every evaluation has all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from minirec.selection.checks import first

History = Sequence[Sequence[int]]
Ranks = NDArray[np.int64]
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]


def interactions(
    user: ArrayLike, *, history: History, target: ArrayLike, items: int
) -> sparse.csr_matrix:
    """Which user (N,) has which of `items` in the train split: (U, V) float64, 0 or 1.

    A user has the items of its histories and its targets (N,).

    Raises:
        ValueError: the lengths differ, or an item is outside 0..V-1.
    """
    wanted = _items("target", target, items)
    _same("user", len(np.asarray(user)), len(wanted))
    _same("history", len(history), len(wanted))
    _, row = np.unique(np.asarray(user), return_inverse=True)
    seen = _rows(history, items).tocoo()
    rows = np.concatenate([row, row[seen.row]])
    columns = np.concatenate([wanted, seen.col])
    matrix = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(int(row.max(initial=-1)) + 1, items)
    )
    matrix.data[:] = 1
    return matrix


@dataclass(frozen=True)
class Known:
    """The data of the references: `train` (U, V) from `interactions`, and V titles."""

    train: sparse.csr_matrix
    titles: Sequence[str]

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """(V,) users with each item in the train split."""
        return np.asarray(self.train.sum(axis=0)).ravel().astype(np.float64)

    @cached_property
    def shares(self) -> sparse.csr_matrix:
        """(U, V) the train matrix divided by the square root of the counts."""
        return (self.train @ sparse.diags(1 / np.sqrt(np.maximum(self.counts, 1)))).tocsr()

    @cached_property
    def words(self) -> sparse.csr_matrix:
        """Unit TF-IDF vectors (V, words) float64 of the titles; zero for a title without a word.

        In a script without spaces a title is one word, so only equal titles are similar.
        """
        if not any(re.search(r"\w", title) for title in self.titles):  # the vectorizer raises
            return sparse.csr_matrix((len(self.titles), 1))
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(self.titles)


def popularity(known: Known, history: History) -> Scores:
    """Number of train users of an item."""
    return np.broadcast_to(known.counts, (len(history), len(known.counts))), known.counts


def cooccurrence(known: Known, history: History) -> Scores:
    """Cosine co-occurrence with the history; ties by popularity.

    ``s_v = sum over distinct h in history, h != v, of n(h and v) / sqrt(n(h) n(v))``, n counting
    users. With X = `Known.shares`, s = (H X^T) X, so no item-to-item matrix is built.
    """
    indicator = _rows(history, len(known.counts))
    indicator.data[:] = 1
    scores = (indicator @ known.shares.T @ known.shares).toarray()
    scores -= (indicator.toarray() > 0) & (known.counts > 0)  # an item's cosine with itself
    # Rounding makes scores equal that differ only by the order of summation.
    return scores.round(10), known.counts


def title_likeness(known: Known, history: History) -> Scores:
    """Similarity of an item's title to the titles of the history, with higher weight for later
    ones.

    ``s_v = sum over entries h of the history, h != v, of cos(h, v) / (1 + age of h)``; the latest
    has age 0. It learns nothing from users, so it shows what words alone can do.
    """
    vectors = known.words
    items = vectors.shape[0]
    lengths = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()  # 1, or 0 without a word
    ages = [range(len(h) - 1, -1, -1) for h in history]
    entries = _rows(history, items, np.array([1 / (1 + age) for a in ages for age in a]))
    scores = (entries @ vectors @ vectors.T).toarray()
    scores -= entries.multiply(lengths).toarray()  # an item's cosine with itself
    return scores.round(10), np.zeros(items)


def reference_ranks(
    name: str,
    known: Known,
    *,
    history: History,
    target: ArrayLike,
    excluded: History,
    block: int = 256,
) -> Ranks:
    """Rank (N,) int64 of each target (N,) by a reference of `REFERENCES`, 1 or more.

    The whole catalogue without the excluded items (`Sample.excluded`) is ranked. Remaining ties
    count against the target: rank = 1 + #{v != y: s_v >= s_y}. `block` samples are ranked at a
    time; memory is O(block x V).

    Raises:
        ValueError: the lengths differ, or an item is outside 0..V-1.
    """
    return ranked(
        lambda part: REFERENCES[name](known, part),
        items=len(known.titles),
        history=history,
        target=target,
        excluded=excluded,
        block=block,
    )


def ranked(
    score: Callable[[History], Scores],
    *,
    items: int,
    history: History,
    target: ArrayLike,
    excluded: History,
    block: int = 256,
) -> Ranks:
    """`reference_ranks` by any function that scores all `items` for a block of histories.

    Raises:
        ValueError: the lengths differ, or an item is outside 0..V-1.
    """
    wanted = _items("target", target, items)
    _same("history", len(history), len(wanted))
    _same("excluded", len(excluded), len(wanted))
    ranks = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), block):
        part = slice(start, start + block)
        scores, ties = score(history[part])
        out = _rows(excluded[part], items).toarray() > 0
        ranks[part] = _rank(scores, np.broadcast_to(ties, out.shape), wanted[part], out)
    return ranks


def _rank(
    scores: NDArray, then: NDArray, target: NDArray[np.int64], out: NDArray[np.bool_]
) -> Ranks:
    """Ranks by `scores`, ties by `then`, without the items `out`: all (B, V), target (B,)."""
    at = np.arange(len(target))
    own, own_then = scores[at, target][:, None], then[at, target][:, None]
    ahead = (scores > own) | ((scores == own) & (then >= own_then))
    ahead &= ~out
    ahead[at, target] = False
    return 1 + ahead.sum(axis=1)


def _rows(history: History, items: int, weights: NDArray | None = None) -> sparse.csr_matrix:
    """(N, V) sums of the weights of each item's entries; weights default to 1."""
    lengths = [len(h) for h in history]
    columns = np.fromiter(chain.from_iterable(history), dtype=np.int64, count=sum(lengths))
    _items("history", columns, items)
    rows = np.repeat(np.arange(len(history)), lengths)
    weights = np.ones(len(columns)) if weights is None else weights
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(history), items))


def _items(name: str, values: ArrayLike, items: int) -> NDArray[np.int64]:
    array = np.asarray(values, dtype=np.int64)
    bad = (array < 0) | (array >= items)
    if (row := first(bad)) is not None:
        raise ValueError(f"{name} entry {row} is {array[row]}; expected 0..{items - 1}")
    return array


def _same(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} has {found} rows; expected {expected}")


REFERENCES: dict[str, Callable[[Known, History], Scores]] = {
    "popularity": popularity,
    "cooccurrence": cooccurrence,
    "title_likeness": title_likeness,
}
"""Names in ``ranks.parquet`` and ``evaluation.json``."""
