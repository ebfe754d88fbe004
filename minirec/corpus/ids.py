"""Two spellings of one user id or item key, and keys that nearly match."""

from __future__ import annotations

import re
from collections.abc import Callable, Container

import pyarrow as pa
import pyarrow.compute as pc

WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
DOTTED = r"^-?[0-9]+(\.[0-9]+)+$"


def dotted(column: pa.ChunkedArray) -> pa.Array:
    """The distinct ids of digits and dots, such as ``1.0``, of a column of strings or nulls."""
    # Most ids have no dot, so the fast filter comes first.
    some = column.filter(pc.match_substring(column, "."))
    return some.filter(pc.match_substring_regex(some, DOTTED)).unique()


def decimals(
    name: str, found: pa.Array, occurring: Callable[[pa.Array], pa.BooleanArray]
) -> tuple[bool, list[str]]:
    """Whether ids such as ``1.0`` are whole numbers, and notes.

    pandas writes whole numbers as decimals in a column with missing values. If any id has other
    decimals (``1.5``, ``1.10``, ``1.0.2``), decimals may have a meaning, and nothing is changed.

    Args:
        name: ``user`` or ``item``, for the notes.
        found: the distinct `dotted` ids of all rows.
        occurring: says which of given ids occur in the rows.
    """
    numbers = found.sort()
    is_whole = pc.match_substring_regex(numbers, WHOLE)
    whole, others = numbers.filter(is_whole), numbers.filter(pc.invert(is_whole))
    if not len(whole):
        return False, []
    if not len(others):
        note = f"{len(whole):,} {name} ids are decimals such as {whole[0]}; read as whole numbers"
        return True, [note]
    bare = pc.replace_substring_regex(whole, WHOLE, r"\1")
    both = pc.indices_nonzero(occurring(bare)).to_pylist()
    if not both:
        return False, []
    return False, [
        f"{len(both):,} {name} ids are written in two ways, such as {bare[both[0]]} and "
        f"{whole[both[0]]}; they count as different ids, since decimals such as {others[0]} occur "
        f"too"
    ]


def without_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with ids such as ``1.0`` written as ``1``."""
    whole = pc.match_substring_regex(column, WHOLE)
    return pc.if_else(whole, pc.replace_substring_regex(column, WHOLE, r"\1"), column)


def known_key(key: str, known: Container[str]) -> str:
    """`key`, or ``1`` for ``1.0`` if only ``1`` is known, as `without_decimals` rewrites keys."""
    whole = re.match(WHOLE, key)
    return whole[1] if whole and key not in known and whole[1] in known else key


def nearest(keys: pa.Array, catalogue: pa.Array) -> tuple[str, str] | None:
    """The first key and catalogue key that differ only in case or leading zeros, else None."""
    places = pc.index_in(_plain(keys), value_set=_plain(catalogue))
    found = pc.indices_nonzero(places.is_valid())
    if not len(found):
        return None
    return keys[found[0].as_py()].as_py(), catalogue[places[found[0].as_py()].as_py()].as_py()


def _plain(keys: pa.Array) -> pa.Array:
    return pc.utf8_ltrim(pc.utf8_lower(keys), characters="0")
