"""References that need no LLM: popularity, item-to-item co-occurrence (method, section 9), titles.

All rank the whole catalogue without the items that do not compete with the target
(`Sample.excluded`); ties count against the target: rank = 1 + #{v != y: s_v >= s_y}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

History = Sequence[Sequence[int]]
Ranks = NDArray[np.int64]


def interactions(
    user: ArrayLike, *, history: History, target: ArrayLike, items: int
) -> sparse.csr_matrix:
    """Which user has which item in the train split: (U, V) float64, 0 or 1.

    Args:
        user: (N,) user of each train sample.
        history: N lists of items.
        target: (N,) item of each train sample.
        items: V, size of the catalogue.

    Raises:
        ValueError: lengths differ, or an item is outside 0..V-1.
    """
    wanted = _items("target", target, items)
    _same("user", len(np.asarray(user)), len(wanted))
    _same("history", len(history), len(wanted))
    _, row = np.unique(np.asarray(user), return_inverse=True)
    seen = _indicator(history, items).tocoo()
    rows = np.concatenate([row, row[seen.row]])
    columns = np.concatenate([wanted, seen.col])
    matrix = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(int(row.max(initial=-1)) + 1, items)
    )
    matrix.data[:] = 1
    return matrix


def item_counts(train: sparse.csr_matrix) -> NDArray[np.int64]:
    """Users of each item: (V,) int64, from `interactions`."""
    return np.asarray(train.sum(axis=0)).ravel().astype(np.int64)


def popularity_ranks(
    train: sparse.csr_matrix, *, excluded: History, target: ArrayLike, block: int = 256
) -> Ranks:
    """Rank of each target if items are ordered by their number of train users.

    Args:
        train: (U, V) from `interactions`.
        excluded: N lists of items that do not compete with the target (`Sample.excluded`).
        target: (N,) items.
        block: samples ranked at once; memory is O(block x V).

    Returns:
        (N,) int64, 1 or more.

    Raises:
        ValueError: lengths differ, or an item is outside 0..V-1.
    """
    counts = item_counts(train).astype(np.float64)
    wanted = _items("target", target, len(counts))
    _same("excluded", len(excluded), len(wanted))
    ranks = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), block):
        part = slice(start, start + block)
        out = _indicator(excluded[part], len(counts)).toarray() > 0
        scores = np.broadcast_to(counts, out.shape)
        ranks[part] = _rank(scores, scores, wanted[part], out)
    return ranks


def cooccurrence_ranks(
    train: sparse.csr_matrix,
    *,
    history: History,
    target: ArrayLike,
    excluded: History,
    block: int = 256,
) -> Ranks:
    """Rank of each target if items are ordered by cosine co-occurrence with the history.

    ``s_v = sum over distinct h in history, h != v, of n(h and v) / sqrt(n(h) n(v))``, n counting
    users; ties ordered by popularity, the rest of them against the target. The item-to-item matrix
    is never built: with X the train matrix over the square root of the counts, s = (H X^T) X.

    Args:
        history: N lists of items.

    Other arguments, result and errors as for `popularity_ranks`.
    """
    counts = item_counts(train).astype(np.float64)
    wanted = _items("target", target, len(counts))
    _same("history", len(history), len(wanted))
    _same("excluded", len(excluded), len(wanted))
    scaled = (train @ sparse.diags(1 / np.sqrt(np.maximum(counts, 1)))).tocsr()
    ranks = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), block):
        part = slice(start, start + block)
        indicator = _indicator(history[part], len(counts))
        seen = indicator.toarray() > 0
        scores = (indicator @ scaled.T @ scaled).toarray()
        scores -= seen & (counts > 0)  # an item's cosine with itself
        out = _indicator(excluded[part], len(counts)).toarray() > 0
        # Rounding keeps equal scores equal, whatever order they were summed in.
        ranks[part] = _rank(scores.round(10), np.broadcast_to(counts, out.shape), wanted[part], out)
    return ranks


def title_vectors(titles: Sequence[str]) -> sparse.csr_matrix:
    """Unit TF-IDF vectors (V, words) float64 of titles; a title without a word is zero.

    A script without spaces makes one word of a title, which then is like its equals only.
    """
    if not any(re.search(r"\w", title) for title in titles):  # which the vectorizer refuses
        return sparse.csr_matrix((len(titles), 1))
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(titles)


def title_ranks(
    vectors: sparse.csr_matrix,
    *,
    history: History,
    target: ArrayLike,
    excluded: History,
    block: int = 256,
) -> Ranks:
    """Rank of each target if items are ordered by how alike their titles are to the history's.

    ``s_v = sum over entries h of the history, h != v, of cos(h, v) / (1 + age of h)``, the latest
    of age 0. Nothing is learnt of users, so this tells how far words alone go.

    Args:
        vectors: (V, words) of `title_vectors`.
        history: N lists of items, oldest first.

    Other arguments, result and errors as for `popularity_ranks`.
    """
    items = vectors.shape[0]
    wanted = _items("target", target, items)
    _same("history", len(history), len(wanted))
    _same("excluded", len(excluded), len(wanted))
    lengths = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()  # 1, or 0 without a word
    ranks = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), block):
        part = slice(start, start + block)
        ages = [range(len(h) - 1, -1, -1) for h in history[part]]
        entries = _rows(history[part], np.array([1 / (1 + age) for a in ages for age in a]), items)
        scores = (entries @ vectors @ vectors.T).toarray()
        scores -= entries.multiply(lengths).toarray()  # an item's cosine with itself
        out = _indicator(excluded[part], items).toarray() > 0
        # Rounding keeps equal scores equal, whatever order they were summed in.
        scores.round(10, out=scores)
        ranks[part] = _rank(scores, np.broadcast_to(0.0, out.shape), wanted[part], out)
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


def _indicator(history: History, items: int) -> sparse.csr_matrix:
    """(N, V) 1 where an item is in the history."""
    matrix = _rows(history, np.ones(sum(map(len, history))), items)
    matrix.data[:] = 1
    return matrix


def _rows(history: History, weights: NDArray, items: int) -> sparse.csr_matrix:
    """(N, V) sums of the weights of each item's entries; `weights` are those of all entries."""
    lengths = [len(h) for h in history]
    columns = np.fromiter(chain.from_iterable(history), dtype=np.int64, count=sum(lengths))
    _items("history", columns, items)
    rows = np.repeat(np.arange(len(history)), lengths)
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(history), items))


def _items(name: str, values: ArrayLike, items: int) -> NDArray[np.int64]:
    array = np.asarray(values, dtype=np.int64)
    bad = (array < 0) | (array >= items)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name} entry {row} is {array[row]}; expected 0..{items - 1}")
    return array


def _same(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} has {found} rows; expected {expected}")
