"""Reads the columns of events and of catalogue entries, by their roles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus.files import columns
from minirec.corpus.files.parse import (
    UNTITLED,
    Malformed,
    bars_to_commas,
    read_text,
    read_type,
    shows_nothing,
)
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.notation import Notation
from minirec.corpus.weights import read_number

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class ColumnReader:
    """How rows of one kind are read.

    Attributes:
        roles: all roles that `read` knows.
        needed: roles without which it cannot read.
        read: columns by name, spec, number N of rows -> the columns of `parse.EVENTS` or
            `parse.CATALOGUE` without the last four, and (N,) bool, False where the row parser has
            to read the row.
    """

    roles: frozenset[str]
    needed: frozenset[str]
    read: Callable[[Columns, FileSpec, int], tuple[list[pa.Array], np.ndarray]]

    def takes(self, spec: FileSpec, names: Collection[str]) -> bool:
        """Whether a file with columns of these names can be read by columns."""
        known = self.needed <= spec.columns.keys() <= self.roles
        return known and {*spec.columns.values(), *spec.extra} <= {*names, *spec.partition}


def _events(table: Columns, spec: FileSpec, n: int) -> tuple[list[pa.Array], np.ndarray]:
    of = {role: table[name] for role, name in spec.columns.items()}
    low, high = spec.rating_range
    use = None
    if "event" in of:
        use = columns.distinct(of["event"], functools.partial(_use, spec), pa.float64())
    user = columns.identifiers(of["user"], "missing user")
    item = columns.identifiers(of["item"], "missing item")
    if "rating" in of:
        rating = columns.ratings(of["rating"], low, high, spec.notation)
    else:
        rating = pa.array(np.full(n, high, np.float32))
    if use is not None:
        rating = pc.if_else(pc.is_nan(use), rating, pc.cast(use, pa.float32()))
    number = pa.nulls(n, pa.float64())
    if "order" in of:
        time = columns.orders(of["order"])
    elif "time" in of:
        time, number = columns.moments(of["time"], spec.notation)
    else:
        time = pa.array(np.zeros(n, np.int64))
    return [user, item, rating, time, number], _valid(user, item, rating, time)


def dropped_types(table: Columns, spec: FileSpec) -> pa.Array:
    """The type of each event whose type is dropped, null for the others."""

    def dropped(value: Any) -> str | None:
        kind = read_type(value)
        return kind if spec.event_types.get(kind) == "drop" else None

    return columns.distinct(table[spec.columns["event"]], dropped, pa.string())


def _use(spec: FileSpec, value: Any) -> float | None:
    """The rating of a type of event; NaN if it has none, and None if the row parser decides."""
    use = spec.event_types.get(read_type(value))
    if use is None:
        return None
    return np.nan if use in ("keep", "drop") else float(use)


def _items(table: Columns, spec: FileSpec, n: int) -> tuple[list[pa.Array], np.ndarray]:
    of = {role: table[name] for role, name in spec.columns.items()}
    key = columns.identifiers(of["item"], "missing item")
    title = columns.texts(of["title"], _title)
    parts = [columns.texts(table[name], read_text) for name in spec.extra]
    if spec.columns.get("text") == "genres":
        parts.insert(0, columns.distinct(of["text"], _genres, pa.string()))
    elif "text" in of:
        parts.insert(0, columns.texts(of["text"], read_text))
    category, weight = pa.nulls(n, pa.string()), pa.nulls(n, pa.float64())
    ok = _valid(key, title, *parts)
    if "category" in of:
        category = columns.texts(of["category"], read_text)
        ok &= _valid(category)
        category = _without(category, "")
    if "weight" in of:
        read = functools.partial(_weight, spec.notation)
        weight = columns.distinct(of["weight"], read, pa.float64())
        ok &= _valid(weight)
        weight = pc.if_else(pc.is_nan(weight), pa.scalar(None, pa.float64()), weight)
    return [key, title, _together(parts, n), category, weight], ok


def _title(value: Any) -> str:
    title = read_text(value)
    if shows_nothing(title):
        raise Malformed(UNTITLED)
    return title


def _genres(value: Any) -> str:
    return bars_to_commas(read_text(value))


def _weight(notation: Notation, value: Any) -> float:
    """NaN stands for no weight, since null would give the row to the row parser."""
    weight = read_number(value, notation)
    return np.nan if weight is None else weight


def _together(parts: list[pa.Array], n: int) -> pa.Array:
    """The parts that are not empty with spaces between them."""
    if not parts:
        return pa.array([""] * n, pa.string())
    return functools.reduce(_pair, parts)


def _pair(left: pa.Array, right: pa.Array) -> pa.Array:
    # Arrow 26 loses rows if binary_join_element_wise skips all values of a row.
    both = pc.binary_join_element_wise(left, right, " ")
    only_left = pc.if_else(pc.equal(right, ""), left, both)
    return pc.if_else(pc.equal(left, ""), right, only_left)


def _without(column: pa.Array, value: str) -> pa.Array:
    return pc.if_else(pc.equal(column, value), pa.scalar(None, pa.string()), column)


def _valid(*found: pa.Array) -> np.ndarray:
    ok = np.ones(len(found[0]), dtype=bool)
    for column in found:
        if column.null_count:
            ok &= column.is_valid().to_numpy(zero_copy_only=False)
    return ok


READERS = {
    "events": ColumnReader(
        frozenset({"user", "item", "rating", "event", "time", "order"}),
        frozenset({"user", "item"}),
        _events,
    ),
    "items": ColumnReader(
        frozenset({"item", "title", "text", "category", "weight"}),
        frozenset({"item", "title"}),
        _items,
    ),
}
"""By the kind of a spec."""
