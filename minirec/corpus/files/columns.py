"""Reads columns of roles; each value becomes what the row functions of `parse` make of it.

A function takes an Arrow array of N values and returns one with null where the row parser has to
give the reason. Usual values are read by kernels, the others by the row function, once per distinct
value.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus.files import times
from minirec.corpus.files.parse import (
    NULLS,
    Malformed,
    identifier,
    read_order,
    read_rating,
    read_time,
)
from minirec.corpus.files.rows import as_json
from minirec.corpus.notation import PLAIN, Notation

_DIGITS = r"^-?[0-9]{1,18}$"
_DECIMAL = r"^[0-9]{1,30}(\.[0-9]{1,30})?$"
_CLEAN = r"^[!-%'-;=-~]+( [!-%'-;=-~]+)*$"
"""Words of ASCII with single spaces and without marks of HTML, which stay as they are."""
_LONGEST_NULL = max(map(len, NULLS))
_types = pa.types


def distinct(column: pa.Array, function: Callable[[Any], Any], type: pa.DataType) -> pa.Array:
    """`function` of each value, null where it raises `Malformed`, ValueError or gives None."""

    def attempt(value: Any) -> Any:
        try:
            # A value of another type is read as the row parser would read it.
            return function(value if simple else json.loads(as_json({"": value}))[""])
        except (Malformed, ValueError):
            return None

    simple = _is_text(column.type) or _types.is_integer(column.type) or _is_float(column.type)
    encoded = column.dictionary_encode(null_encoding="encode")
    found = pa.array([attempt(value) for value in encoded.dictionary.to_pylist()], type)
    return found.take(encoded.indices)


def can_read(type: pa.DataType) -> bool:
    """Whether these functions take a column of this type; nested types are left to the rows."""
    return (
        _is_text(type)
        or _types.is_integer(type)
        or _is_float(type)
        or _types.is_timestamp(type)
        or _types.is_date(type)
        or _types.is_decimal(type)
        or _types.is_boolean(type)
    )


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column together."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def normal(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """A column of a file without its physical encoding: dictionaries decoded, bytes as text.

    Returns:
        the column as one array; bytes that are not UTF-8 are null.
        bad: (N,) bool, True for these.
    """
    array = one_array(column)
    if _types.is_dictionary(array.type):
        array = array.dictionary_decode()
    bad = np.zeros(len(array), dtype=bool)
    if not _holds_bytes(array.type):
        return array, bad
    raw = pc.cast(array, pa.large_binary())
    try:
        return pc.cast(raw, pa.large_string()), bad
    except pa.ArrowInvalid:
        bad = np.array([not _is_utf8(value) for value in raw.to_pylist()])
    kept = pc.if_else(pa.array(bad), pa.scalar(None, pa.large_binary()), raw)
    return pc.cast(kept, pa.large_string()), bad


def _holds_bytes(type: pa.DataType) -> bool:
    return (
        _is_text(type)
        or _types.is_binary(type)
        or _types.is_large_binary(type)
        or _types.is_fixed_size_binary(type)
    )


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


def identifiers(column: pa.Array, missing: str) -> pa.Array:
    """User ids or item keys as strings; see `parse.identifier`."""
    if _types.is_integer(column.type):
        return pc.cast(column, pa.string())
    if not _is_text(column.type):
        return distinct(column, lambda value: identifier(value, missing), pa.string())
    return _others(column, _is_plain(column), lambda value: identifier(value, missing))


def texts(column: pa.Array, function: Callable[[Any], str]) -> pa.Array:
    """Titles and texts as strings.

    Args:
        function: `parse.read_text`, or one that gives the same for texts that show something.
    """
    if not _is_text(column.type):
        return distinct(column, function, pa.string())
    plain = pc.match_substring_regex(column, _CLEAN).fill_null(False)
    null = pc.is_in(column, value_set=pa.array(sorted(NULLS), column.type))
    return _others(column, pc.and_not(plain, null), function)


def ratings(column: pa.Array, low: float, high: float, notation: Notation = PLAIN) -> pa.Array:
    """Ratings within their range as float32; see `parse.read_rating`."""

    def within(value: Any) -> float | None:
        number = read_rating(value, notation)
        return number if low <= number <= high else None

    if not (_is_float(column.type) or _types.is_integer(column.type)):
        return distinct(column, within, pa.float32())
    number = _numbers(column)
    ok = (number >= low) & (number <= high)
    return pa.array(np.where(ok, number, 0).astype(np.float32), mask=~ok)


def orders(column: pa.Array) -> pa.Array:
    """Numbers of ``corpus.columns.order`` as int64; see `parse.read_order`."""
    if _types.is_signed_integer(column.type):
        return pc.cast(column, pa.int64())
    if not _is_text(column.type):
        return distinct(column, read_order, pa.int64())
    plain = pc.match_substring_regex(column, _DIGITS).fill_null(False)
    if pc.all(plain).as_py():
        return pc.cast(column, pa.int64())
    return distinct(column, read_order, pa.int64())


def moments(column: pa.Array, notation: Notation = PLAIN) -> tuple[pa.Array, pa.Array]:
    """Times in ms, int64, and the numbers as written, float64, null for a date.

    The first is null where the row parser has to decide; see `parse.read_time`.
    """
    if _types.is_timestamp(column.type) or _types.is_date(column.type):
        return _dates(column), pa.nulls(len(column), pa.float64())
    if _is_text(column.type) and not notation.own:
        number = _decimals(column)
    elif _is_float(column.type) or _types.is_integer(column.type):
        number = _numbers(column)
    else:
        number = np.full(len(column), np.nan)
    ms, ok = times.read_numbers(number)
    if ok.all():
        return pa.array(ms), pa.array(number)
    rest = column.filter(pa.array(~ok))
    moment = functools.partial(_moment, notation)
    both = distinct(rest, moment, pa.struct([("ms", pa.int64()), ("number", pa.float64())]))
    mask = pa.array(~ok)
    rest_ms, rest_number = both.flatten()
    return (
        pc.replace_with_mask(pa.array(ms), mask, rest_ms),
        pc.replace_with_mask(pa.array(number), mask, rest_number),
    )


def _moment(notation: Notation, value: Any) -> dict[str, Any]:
    ms, number = read_time(value, notation)
    return {"ms": ms, "number": number}


def _dates(column: pa.Array) -> pa.Array:
    """Times of timestamps or dates in ms, int64; as `times.read` reads their text."""
    unit = column.type.unit if _types.is_timestamp(column.type) else "day"
    if unit == "ns":  # a text of a date has microseconds at most
        us = _integers(column.view(pa.int64())) // 1000
    else:
        scale = {"day": 86_400 * 10**6, "s": 10**6, "ms": 1000, "us": 1}[unit]
        if unit == "day":
            value = _integers(pc.cast(column, pa.date32()).view(pa.int32()))
        else:
            value = _integers(column.view(pa.int64()))
        us = np.where(np.abs(value) < 2**53 // scale, value, -1) * scale
    ms = np.rint(us / 1e6 * 1000)
    ok = (us >= 0) & (ms < times.LAST_MS)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(np.where(ok, ms, 0).astype(np.int64), mask=~(ok & known))


def _integers(column: pa.Array) -> np.ndarray:
    return column.fill_null(0).to_numpy().astype(np.int64)


def _numbers(column: pa.Array) -> np.ndarray:
    """Integers or floats as float64, NaN for null."""
    known = column.is_valid().to_numpy(zero_copy_only=False)
    number = column.fill_null(0).to_numpy().astype(np.float64)
    return np.where(known, number, np.nan)


def _decimals(column: pa.Array) -> np.ndarray:
    """Plain decimal numbers as float64, NaN for other texts."""
    column = column if column.type == pa.string() else pc.cast(column, pa.string())
    length, chars = _content(column)
    if len(chars) and chars.min() >= 48 and chars.max() <= 57 and _of_length(length, 1, 30):
        return pc.cast(column, pa.float64()).to_numpy()
    plain = pc.match_substring_regex(column, _DECIMAL).fill_null(False)
    kept = pc.if_else(plain, column, pa.scalar("nan", pa.string()))
    return pc.cast(kept, pa.float64()).to_numpy()


def _is_plain(column: pa.Array) -> pa.BooleanArray:
    """Whether a text is printable ASCII without a space, and not one of `NULLS`."""
    length, chars = _content(column)
    if len(chars) and chars.min() > 32 and chars.max() < 127:
        plain = pa.array(length > 0)
    else:
        plain = pc.match_substring_regex(column, "^[!-~]+$").fill_null(False)
    if len(length) and length.min() <= _LONGEST_NULL:
        null = pc.is_in(column, value_set=pa.array(sorted(NULLS), column.type))
        plain = pc.and_not(plain, null)
    return plain


def _others(column: pa.Array, plain: pa.Array, function: Callable[[Any], str]) -> pa.Array:
    """The column with `function` applied to the values that are not plain."""
    column = column if column.type == pa.string() else pc.cast(column, pa.string())
    if pc.all(plain).as_py():
        return column
    rest = pc.invert(plain)
    found = distinct(column.filter(rest), function, pa.string())
    return pc.replace_with_mask(column, rest, found)


def _content(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Length in bytes of each text, (N,), and the bytes of all, uint8."""
    _, offsets, data = column.buffers()
    size = np.int64 if _types.is_large_string(column.type) else np.int32
    if not len(column) or data is None:
        return np.zeros(len(column), size), np.empty(0, np.uint8)
    edge = np.frombuffer(offsets, size)[column.offset : column.offset + len(column) + 1]
    chars = np.frombuffer(data, np.uint8)[edge[0] : edge[-1]]
    return np.diff(edge), chars


def _of_length(length: np.ndarray, least: int, most: int) -> bool:
    return bool(length.min() >= least and length.max() <= most)


def _is_text(type: pa.DataType) -> bool:
    return _types.is_string(type) or _types.is_large_string(type)


def _is_float(type: pa.DataType) -> bool:
    return _types.is_float32(type) or _types.is_float64(type)
