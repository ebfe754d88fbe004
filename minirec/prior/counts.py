"""Scores of all items for a history, from counts of the train split and from titles.

Three parts (method, section 11) for a history H with weights w_h = 1 / (1 + age of h), where the
last event has age 0:

- co-occurrence: sum over h of w_h n(h, v) / sqrt(n(h) n(v)), n counting users;
- transitions: sum over h of w_h (T + T^2 / 2)[h, v], with T the row-normalised log(1 + number of
  samples whose last history item is h and whose target is v);
- titles: sum over h of w_h times the cosine of the TF-IDF vectors of the titles of h and v.

Each part is divided by its maximum over all items. No item-to-item matrix is built, except for
exports. `minirec export` copies this file, so it imports only numpy and scipy.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

PARTS = ("cooccurrence", "transitions", "titles")
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
History = Sequence[Sequence[int]]
CELLS = 1 << 22
"""Scores of a block of `rows_at_once`. `Counts.parts` holds about ten float64 arrays of them."""


def rows_at_once(items: int, *, most: int = 256) -> int:
    """Number of histories whose scores of V `items` are computed at a time: at most `most`."""
    return max(1, min(most, CELLS // items))


@dataclass(frozen=True)
class Words:
    """TF-IDF vectors of titles: (1 + log tf) (1 + log((1 + V) / (1 + df))), of unit length.

    column: of each word. idf (W,) float64. vectors (V, W): zero for a title without a known word.
    """

    column: dict[str, int]
    idf: Floats
    vectors: sparse.csr_matrix

    @classmethod
    def of(cls, titles: Sequence[str]) -> Words:
        """The words of V titles. In a script without spaces a title is one word."""
        seen: dict[str, int] = {}  # in the order of their first title
        used, times, starts = _bags(titles, lambda word: seen.setdefault(word, len(seen)))
        names = sorted(seen)
        place = np.empty(len(names), np.int64)
        place[[seen[name] for name in names]] = np.arange(len(names))
        used = place[used]
        titles_with = np.bincount(used, minlength=len(names))
        idf = 1 + np.log((1 + len(titles)) / (1 + titles_with))
        column = {name: i for i, name in enumerate(names)}
        return cls(column, idf, _vectors(used, times, starts, idf))

    def with_titles(self, titles: Sequence[str]) -> Words:
        """The same words, with the vectors of further titles at the end."""
        more = _vectors(*_bags(titles, self.column.get), self.idf)
        return replace(self, vectors=sparse.vstack([self.vectors, more]).tocsr())

    @cached_property
    def titles(self) -> sparse.csr_matrix:
        """(W, V), the transpose of the vectors. Each product with a CSC matrix would build it."""
        return self.vectors.T.tocsr()


def _words(title: str) -> list[str]:
    return re.findall(r"\w+", title.lower())


def _bags(
    titles: Iterable[str], column: Callable[[str], int | None]
) -> tuple[Integers, Integers, Integers]:
    """The words of V titles as flat arrays, because a list of a million counters is large.

    Returns (E,) the column of each word of each title, without those that have none, (E,) how often
    the title has it, and (V + 1,) where the words of each title begin.
    """
    used, times, starts = array("q"), array("q"), array("q", [0])
    for title in titles:
        for word, n in Counter(_words(title)).items():
            if (place := column(word)) is not None:
                used.append(place)
                times.append(n)
        starts.append(len(used))
    return np.array(used, np.int64), np.array(times, np.int64), np.array(starts, np.int64)


def _vectors(used: Integers, times: Integers, starts: Integers, idf: Floats) -> sparse.csr_matrix:
    """The vectors of titles, given by `_bags`."""
    logs = np.array([math.log(max(1, n)) for n in range(1 + times.max(initial=0))])
    weights = (1 + logs[times]) * idf[used]
    lengths = np.ones(len(starts) - 1)
    for row, (start, stop) in enumerate(pairwise(starts.tolist())):
        if stop > start:
            lengths[row] = math.hypot(*weights[start:stop].tolist())
    rows = np.repeat(np.arange(len(lengths)), np.diff(starts))
    values = weights / lengths[rows]
    shape = (len(lengths), max(1, len(idf)))
    return sparse.csr_matrix((values, (rows, used)), shape=shape)


@dataclass(frozen=True)
class Counts:
    """What the events of a period tell about V items.

    users: (V,) float64, number of users of each item.
    likeness: matrices whose product (V, V) holds n(h, v) / sqrt(n(h) n(v)).
    transitions: T, (V, V).
    """

    users: Floats
    likeness: tuple[sparse.csr_matrix, ...]
    transitions: sparse.csr_matrix
    words: Words

    @classmethod
    def of(
        cls, *, user: Integers, item: Integers, last: Integers, target: Integers, words: Words
    ) -> Counts:
        """Count N distinct pairs of user and item, and M pairs of last history item and target."""
        items = words.vectors.shape[0]
        _, row = np.unique(user, return_inverse=True)
        shape = (int(row.max(initial=-1)) + 1, items)
        having = sparse.csr_matrix((np.ones(len(row)), (row, item)), shape=shape)
        users = np.asarray(having.sum(axis=0)).ravel()
        shares = (having @ sparse.diags(1 / np.sqrt(np.maximum(users, 1)))).tocsr()
        steps = sparse.csr_matrix((np.ones(len(last)), (last, target)), shape=(items, items))
        steps.data = np.log1p(steps.data)
        total = np.asarray(steps.sum(axis=1)).ravel()
        moves = (sparse.diags(1 / np.where(total > 0, total, 1)) @ steps).tocsr()
        return cls(users, (shares.T.tocsr(), shares), moves, words)

    def parts(self, history: History) -> Floats:
        """`sparse_parts` as one array (3, B, V)."""
        return np.stack([part.toarray() for part in self.sparse_parts(history)])

    def sparse_parts(self, history: History) -> tuple[sparse.csr_matrix, ...]:
        """`PARTS` of B histories (item ids, oldest first), each in 0..1: three (B, V) float64.

        A part is 0 where its maximum is 0, e.g. without any event.
        """
        weights = weighted(history, items=len(self.users))
        likeness = weights
        for factor in self.likeness:
            likeness = likeness @ factor
        once = weights @ self.transitions
        words = self.words
        found = (
            likeness,
            once + 0.5 * (once @ self.transitions),
            weights @ words.vectors @ words.titles,
        )
        return tuple(_scaled(part.tocsr()) for part in found)

    def scores(self, history: History, weights: Sequence[float]) -> Floats:
        """Sum of `PARTS` times `weights` for B histories, (B, V) float64.

        A history's scores do not depend on the others of the batch.
        """
        size = rows_at_once(len(self.users))
        found = [np.zeros((0, len(self.users)))]
        for start in range(0, len(history), size):
            parts = self.parts(history[start : start + size])
            found.append(sum(w * part for w, part in zip(weights, parts, strict=True)))
        return np.concatenate(found)

    def with_titles(self, titles: Sequence[str]) -> Counts:
        """The same counts for a catalogue with further items, which no user has."""
        items = len(self.users) + len(titles)
        first, *rest = self.likeness
        ends = [first.shape[1], *(factor.shape[1] for factor in rest)]
        ends[-1] = items
        starts = [items, *ends[:-1]]
        likeness = tuple(
            _resized(factor, (rows, columns))
            for factor, rows, columns in zip(self.likeness, starts, ends, strict=True)
        )
        return Counts(
            np.concatenate([self.users, np.zeros(len(titles))]),
            likeness,
            _resized(self.transitions, (items, items)),
            self.words.with_titles(titles),
        )

    def condensed(self, neighbours: int, *, block: int = 1024) -> Counts:
        """The counts with one item-to-item matrix, of the best `neighbours` of each item.

        It holds no rows of users, and it is faster for popular items.
        """
        items = len(self.users)
        parts = []
        for start in range(0, items, block):
            own = np.arange(start, min(start + block, items))
            at = (np.arange(len(own)), own)
            rows = sparse.csr_matrix((np.ones(len(own)), at), shape=(len(own), items))
            for factor in self.likeness:
                rows = rows @ factor
            parts.append(_best(rows.tocsr(), neighbours))
        empty = sparse.csr_matrix((0, items))
        return replace(self, likeness=(sparse.vstack([empty, *parts]).tocsr(),))

    def save(self, file: Path) -> None:
        """Write one npz file. The counts must be `condensed`."""
        (likeness,) = self.likeness
        arrays = {
            "users": self.users,
            "words": np.array(list(self.words.column)),
            "idf": self.words.idf,
            **_arrays("likeness", likeness),
            **_arrays("transitions", self.transitions),
            **_arrays("vectors", self.words.vectors),
        }
        np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, file: Path) -> Counts:
        """Read what `save` wrote."""
        with np.load(file) as found:
            column = {str(word): i for i, word in enumerate(found["words"])}
            matrices = {
                name: sparse.csr_matrix(
                    tuple(found[f"{name}_{part}"] for part in ("data", "indices", "indptr")),
                    shape=tuple(found[f"{name}_shape"]),
                )
                for name in ("likeness", "transitions", "vectors")
            }
            words = Words(column, found["idf"], matrices["vectors"])
            return cls(found["users"], (matrices["likeness"],), matrices["transitions"], words)


def weighted(history: History, *, items: int) -> sparse.csr_matrix:
    """(B, V) float64, the sum of 1 / (1 + age) of each item's entries; the last has age 0.

    Raises:
        ValueError: an item is outside 0..V-1.
    """
    lengths = [len(h) for h in history]
    columns = np.fromiter(chain.from_iterable(history), dtype=np.int64, count=sum(lengths))
    if len(columns) and not (columns.min() >= 0 and columns.max() < items):
        strange = columns.max() if columns.max() >= items else columns.min()
        raise ValueError(f"a history has item {strange}; expected 0..{items - 1}")
    ages: Iterable[int] = chain.from_iterable(range(n - 1, -1, -1) for n in lengths)
    weights = 1 / (1 + np.fromiter(ages, dtype=np.float64, count=len(columns)))
    rows = np.repeat(np.arange(len(history)), lengths)
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(history), items))


def _scaled(part: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each row of scores, 0 or more, divided by its maximum."""
    most = np.maximum(part.max(axis=1).toarray()[:, 0], 0)
    each = np.repeat(most, np.diff(part.indptr))
    values = np.divide(part.data, each, out=np.zeros_like(part.data), where=each > 0)
    # Rounding makes scores equal that differ only by the order of summation.
    return sparse.csr_matrix((values.round(10), part.indices, part.indptr), shape=part.shape)


def _resized(matrix: sparse.csr_matrix, shape: tuple[int, int]) -> sparse.csr_matrix:
    matrix = matrix.copy()
    matrix.resize(shape)
    return matrix


def _best(rows: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """Keep the `most` largest values of each row; of equal ones, the lowest columns."""
    rows.sort_indices()
    order = np.lexsort((rows.indices, -rows.data, _row_numbers(rows)))
    place = np.arange(len(order)) - np.repeat(rows.indptr[:-1], np.diff(rows.indptr))
    kept = np.sort(order[place < most])
    values = (rows.data[kept], (_row_numbers(rows)[kept], rows.indices[kept]))
    return sparse.csr_matrix(values, shape=rows.shape)


def _row_numbers(rows: sparse.csr_matrix) -> Integers:
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))


def _arrays(name: str, matrix: sparse.csr_matrix) -> dict[str, np.ndarray]:
    parts = {part: getattr(matrix, part) for part in ("data", "indices", "indptr")}
    return {f"{name}_{part}": value for part, value in parts.items()} | {
        f"{name}_shape": np.array(matrix.shape)
    }
