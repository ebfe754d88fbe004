"""Two spellings of one user id or item key, and keys that nearly match."""

from __future__ import annotations

import functools
import re
from collections.abc import Container

import pyarrow as pa
import pyarrow.compute as pc

WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
DOTTED = r"^-?[0-9]+(\.[0-9]+)+$"


def without_decimals(
    name: str, columns: list[pa.ChunkedArray]
) -> tuple[list[pa.ChunkedArray], list[str]]:
    """Write ids such as ``1.0`` as whole numbers in all columns; also returns notes.

    pandas writes whole numbers as decimals in a column with missing values. If any id has other
    decimals (``1.5``, ``1.10``, ``1.0.2``), decimals may have a meaning, and nothing is changed.

    Args:
        name: ``user`` or ``item``, for the notes.
        columns: columns of strings or nulls with the same kind of ids.
    """
    dotted = pa.chunked_array(
        [c for column in columns for c in _dotted(column).chunks], pa.string()
    )
    numbers = dotted.unique().sort()
    is_whole = pc.match_substring_regex(numbers, WHOLE)
    whole, others = numbers.filter(is_whole), numbers.filter(pc.invert(is_whole))
    if not len(whole):
        return columns, []
    if not len(others):
        note = f"{len(whole):,} {name} ids are decimals such as {whole[0]}; read as whole numbers"
        return [_replaced(column) for column in columns], [note]
    bare = pc.replace_substring_regex(whole, WHOLE, r"\1")
    there = [pc.is_in(bare, value_set=column.unique()) for column in columns]
    both = pc.indices_nonzero(functools.reduce(pc.or_, there)).to_pylist()
    if not both:
        return columns, []
    return columns, [
        f"{len(both):,} {name} ids are written in two ways, such as {bare[both[0]]} and "
        f"{whole[both[0]]}; they count as different ids, since decimals such as {others[0]} occur "
        f"too"
    ]


def known_key(key: str, known: Container[str]) -> str:
    """`key`, or ``1`` for ``1.0`` if only ``1`` is known, as `without_decimals` rewrites keys."""
    whole = re.match(WHOLE, key)
    return whole[1] if whole and key not in known and whole[1] in known else key


def _dotted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Most ids have no dot, so the fast filter comes first.
    some = column.filter(pc.match_substring(column, "."))
    return some.filter(pc.match_substring_regex(some, DOTTED))


def _replaced(column: pa.ChunkedArray) -> pa.ChunkedArray:
    whole = pc.match_substring_regex(column, WHOLE)
    return pc.if_else(whole, pc.replace_substring_regex(column, WHOLE, r"\1"), column)


def nearest(keys: pa.Array, catalogue: pa.Array) -> tuple[str, str] | None:
    """The first key and catalogue key that differ only in case or leading zeros, else None."""
    places = pc.index_in(_plain(keys), value_set=_plain(catalogue))
    found = pc.indices_nonzero(places.is_valid())
    if not len(found):
        return None
    return keys[found[0].as_py()].as_py(), catalogue[places[found[0].as_py()].as_py()].as_py()


def _plain(keys: pa.Array) -> pa.Array:
    return pc.utf8_ltrim(pc.utf8_lower(keys), characters="0")
