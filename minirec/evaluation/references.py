"""References that need no LLM: sums of counts of the train split, and likeness of titles.

A reference is a function ``(known, history) -> (scores, ties)``. `known` holds the counts of the
train split and the words of the titles, `history` B lists of items, oldest first. scores (B, V)
float64 order the catalogue, and ties (V,) float64 order items with equal scores. The scores are an
array, or a sparse matrix where most are 0, which is faster and smaller for a large catalogue.
`reference_ranks` turns them into ranks. To add a reference, write a function here and add it to
`REFERENCES`; every evaluation has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from minirec.prior.counts import PARTS, Counts, rows_at_once, weighted
from minirec.selection.checks import first

History = Sequence[Sequence[int]]
Ranks = NDArray[np.int64]
Scores = tuple[NDArray[np.float64] | sparse.spmatrix, NDArray[np.float64]]
Reference = Callable[[Counts, History], Scores]


def popularity(known: Counts, history: History) -> Scores:
    """Number of train users of an item."""
    return sparse.csr_matrix((len(history), len(known.users))), known.users  # only the ties differ


def cooccurrence(known: Counts, history: History) -> Scores:
    """Cosine co-occurrence with the history; ties by popularity.

    ``s_v = sum over distinct h in history, h != v, of n(h and v) / sqrt(n(h) n(v))``, n counting
    users.
    """
    scores = _rows(history, len(known.users))
    scores.data[:] = 1
    for factor in known.likeness:
        scores = scores @ factor
    own = _rows(history, len(known.users))
    own.data = (known.users[own.indices] > 0).astype(float)
    # Rounding makes scores equal that differ only by the order of summation.
    return _rounded(scores - own), known.users


def transitions(known: Counts, history: History) -> Scores:
    """What came next after the items of the history, in one or two steps; ties by popularity.

    The part ``transitions`` of `minirec.prior.counts`.
    """
    return known.sparse_parts(history)[PARTS.index("transitions")], known.users


def title_likeness(known: Counts, history: History) -> Scores:
    """Similarity of an item's title to the titles of the history, with higher weight for later
    ones.

    ``s_v = sum over entries h of the history, h != v, of cos(h, v) / (1 + age of h)``; the latest
    has age 0. It learns nothing from users, so it shows what words alone can do.
    """
    vectors = known.words.vectors
    items = vectors.shape[0]
    lengths = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()  # 1, or 0 without a word
    entries = weighted(history, items=items)
    own = entries.multiply(lengths)  # an item's cosine with itself
    return _rounded(entries @ vectors @ known.words.titles - own), np.zeros(items)


def shortcut(known: Counts, history: History) -> Scores:
    """Sum of co-occurrence, transitions and titles, each divided by its maximum; ties by
    popularity.

    The parts of `minirec.prior.counts` with equal weights.
    """
    return weighted_parts(known, history, weights=(1, 1, 1))


def weighted_parts(known: Counts, history: History, *, weights: Sequence[float]) -> Scores:
    """Weighted sum of the parts of `minirec.prior.counts`; ties by popularity."""
    first, *more = (w * part for w, part in zip(weights, known.sparse_parts(history), strict=True))
    return _rounded(sum(more, start=first)), known.users


def reference_ranks(
    score: Reference,
    known: Counts,
    *,
    history: History,
    target: ArrayLike,
    excluded: History,
    block: int | None = None,
) -> Ranks:
    """Rank (N,) int64 of each target (N,) by a reference, 1 or more.

    The whole catalogue without the excluded items (`Sample.excluded`) is ranked. Remaining ties
    count against the target: rank = 1 + #{v != y: s_v >= s_y}. `block` samples are ranked at a
    time (default: `rows_at_once`, which bounds memory for any V).

    Raises:
        ValueError: the lengths differ, or an item is outside 0..V-1.
    """
    return ranked(
        lambda part: score(known, part),
        items=len(known.users),
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
    block: int | None = None,
) -> Ranks:
    """`reference_ranks` by any function that scores all `items` for a block of histories.

    Raises:
        ValueError: the lengths differ, or an item is outside 0..V-1.
    """
    wanted = _items("target", target, items)
    _same("history", len(history), len(wanted))
    _same("excluded", len(excluded), len(wanted))
    ranks = np.empty(len(wanted), dtype=np.int64)
    block = block or rows_at_once(items)
    for start in range(0, len(wanted), block):
        part = slice(start, start + block)
        scores, ties = score(history[part])
        out = _rows(excluded[part], items)
        if isinstance(scores, np.ndarray):
            ranks[part] = _rank(scores, ties, wanted[part], out.toarray() > 0)
        else:
            ranks[part] = _sparse_rank(scores.tocsr(), ties, wanted[part], out)
    return ranks


def _rank(
    scores: NDArray, ties: NDArray, target: NDArray[np.int64], out: NDArray[np.bool_]
) -> Ranks:
    """Ranks by `scores`, without the items `out`: both (B, V); ties (V,), target (B,)."""
    at = np.arange(len(target))
    own = scores[at, target][:, None]
    ahead = (scores > own) | ((scores == own) & (ties >= ties[target][:, None]))
    ahead &= ~out
    ahead[at, target] = False
    return 1 + ahead.sum(axis=1)


def _sparse_rank(
    scores: sparse.csr_matrix, ties: NDArray, target: NDArray[np.int64], out: sparse.csr_matrix
) -> Ranks:
    """`_rank` from the stored scores of each row; all other scores are 0."""
    scores.sort_indices()
    out.sort_indices()
    ranks = np.empty(len(target), dtype=np.int64)
    for row, wanted in enumerate(target.tolist()):
        stored = slice(*scores.indptr[row : row + 2])
        items, values = scores.indices[stored], scores.data[stored]
        place = np.searchsorted(items, wanted)
        own = values[place] if place < len(items) and items[place] == wanted else 0.0
        left = np.append(out.indices[slice(*out.indptr[row : row + 2])], wanted)
        left = np.unique(left).astype(items.dtype)
        there = ~np.isin(items, left)
        tied = ties[items] >= ties[wanted]
        ahead = (values > own) | ((values == own) & tied)
        count = int((ahead & there).sum())
        if own < 0:
            count += len(ties) - len(items) - int((~np.isin(left, items)).sum())
        elif own == 0:
            # Items without a stored score: all with such ties, without the stored and the left out.
            every = int((ties >= ties[wanted]).sum())
            alone = left[~np.isin(left, items)]
            count += every - int(tied.sum()) - int((ties[alone] >= ties[wanted]).sum())
        ranks[row] = 1 + count
    return ranks


def _rounded(scores: sparse.spmatrix) -> sparse.csr_matrix:
    rounded = scores.tocsr()
    rounded.data = rounded.data.round(10)
    return rounded


def _rows(history: History, items: int) -> sparse.csr_matrix:
    """(N, V) number of entries of each item."""
    lengths = [len(h) for h in history]
    columns = np.fromiter(chain.from_iterable(history), dtype=np.int64, count=sum(lengths))
    _items("history", columns, items)
    rows = np.repeat(np.arange(len(history)), lengths)
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(history), items))


def _items(name: str, values: ArrayLike, items: int) -> NDArray[np.int64]:
    array = np.asarray(values, dtype=np.int64)
    bad = (array < 0) | (array >= items)
    if (row := first(bad)) is not None:
        raise ValueError(f"{name} entry {row} is {array[row]}; expected 0..{items - 1}")
    return array


def _same(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} has {found} rows; expected {expected}")


REFERENCES: dict[str, Reference] = {
    "popularity": popularity,
    "cooccurrence": cooccurrence,
    "transitions": transitions,
    "title_likeness": title_likeness,
    "shortcut": shortcut,
}
"""Names in ``ranks.parquet`` and ``evaluation.json``."""
