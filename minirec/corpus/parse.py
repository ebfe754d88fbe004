"""Raw rows -> events or catalogue entries, with a reason for each row that is malformed.

One parser serves all file sources: a `FileSpec` says which column plays which role. A parser
never raises on the content of a row, and rows in = good rows + rejected rows.
"""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from minirec.corpus.files import UNREADABLE, FileSpec

TEXT_SHOWN = 200
LAST_TIME_MS = 4_102_444_800_000  # 2100-01-01: a later time is a wrong unit or a wrong number
LARGEST_ORDER = 2**53
SECONDS_BELOW = 100_000_000_000  # as seconds the year 5138, as ms March 1973

EVENTS = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
"""Parsed interactions, time in ms, or the number in its place. A rejected row has a reason and raw
(its first 200 characters), and null user, item, rating and time; a good row has neither."""

CATALOGUE = pa.schema(
    [
        ("key", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
"""Parsed catalogue entries; rejected rows as in `EVENTS`, except that an entry without a title
keeps its key, so that events on it are told from events on unknown items. category may be null."""


class Malformed(Exception):
    """A row that is not usable; the message is the reason, key the item it is about if known."""

    def __init__(self, reason: str, key: str | None = None):
        super().__init__(reason)
        self.key = key


def parse(lines: pa.Table, specs: dict[str, FileSpec]) -> pa.Table:
    """Parse a block of rows of one kind.

    Args:
        lines: `minirec.corpus.files.LINES`, R rows.
        specs: path -> spec, all of the same kind (events or items).

    Returns:
        `EVENTS` or `CATALOGUE` with R rows in the same order.
    """
    kinds = {spec.kind for spec in specs.values()}
    schema = EVENTS if kinds == {"events"} else CATALOGUE
    width = len(schema) - 4
    read = _event if schema is EVENTS else _item
    rows: list[tuple] = []
    for path, line, raw in zip(
        lines["file"].to_pylist(), lines["line"].to_pylist(), lines["raw"].to_pylist(), strict=True
    ):
        if line < 0:
            rows.append((None,) * width + (path, line, UNREADABLE, raw.decode()))
            continue
        try:
            rows.append((*read(_fields(raw, specs[path]), specs[path]), path, line, None, None))
        except Malformed as reason:
            shown = raw[: 4 * TEXT_SHOWN].decode("utf-8", errors="replace")[:TEXT_SHOWN]
            empty = (reason.key,) + (None,) * (width - 1)
            rows.append(empty + (path, line, str(reason), shown))
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _fields(raw: bytes, spec: FileSpec) -> dict[str, Any]:
    """Row -> column: value."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("wrong encoding") from None
    if spec.format in ("jsonl", "parquet"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise Malformed("broken JSON") from None
        if not isinstance(row, dict):
            raise Malformed("broken JSON")
        return row
    values = _split(text, spec)
    if len(values) != len(spec.header):
        raise Malformed("wrong number of fields")
    return dict(zip(spec.header, values, strict=True))


def _split(text: str, spec: FileSpec) -> list[str]:
    if not spec.quoted or '"' not in text:
        return text.split(spec.delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=spec.delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        raise Malformed("wrong number of fields") from None
    return rows[0] if len(rows) == 1 else []


def _event(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, float, int]:
    columns = spec.columns
    user = identifier(row.get(columns["user"]), "missing user")
    item = identifier(row.get(columns["item"]), "missing item")
    low, high = spec.rating_range
    # A source of clicks or purchases has no ratings: each event counts as the highest one.
    rating = _number(row.get(columns["rating"])) if "rating" in columns else high
    if not low <= rating <= high:
        raise Malformed("rating outside its range")
    return user, item, rating, _when(row, spec)


def _when(row: dict[str, Any], spec: FileSpec) -> int:
    """Time in ms, or the number in its place; 0 where the order of the rows takes it."""
    if "time" in spec.columns:
        return _time_ms(row.get(spec.columns["time"]), spec.time_unit)
    return _order(row.get(spec.columns["order"])) if "order" in spec.columns else 0


def _order(value: Any) -> int:
    """A whole number, which a float holds exactly; pandas writes 3 as 3.0 beside a gap."""
    number = _number(value)
    if not number.is_integer() or abs(number) > LARGEST_ORDER:
        raise Malformed("bad order")
    return int(number)


def _item(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, str, str | None]:
    columns = spec.columns
    key = identifier(row.get(columns["item"]), "missing item")
    title = _plain(row.get(columns["title"]))
    if not title:
        raise Malformed("missing title", key)
    shown = [columns["text"]] if "text" in columns else []
    parts = [_plain(row.get(name)) for name in (*shown, *spec.extra)]
    if "genres" in shown:  # MovieLens separates them by bars
        parts[0] = parts[0].replace("(no genres listed)", "").replace("|", ", ")
    category = _plain(row.get(columns["category"])) if "category" in columns else ""
    return key, title, " ".join(p for p in parts if p), category or None


def identifier(value: Any, missing: str) -> str:
    """A user id or item key as text without surrounding spaces."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Malformed(missing)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Malformed(missing)
        # pandas turns a column of integers with one gap into floats.
        value = int(value) if value.is_integer() else value
    try:
        text = str(value).strip()
    except ValueError:  # an integer of more than 4,300 digits
        raise Malformed("bad number") from None
    if not text:
        raise Malformed(missing)
    return _encodable(text)


def _plain(value: Any) -> str:
    """Text of a JSON value on one line: lists are joined, other structures are left out."""
    if isinstance(value, list):
        return " ".join(p for p in (_plain(v) for v in value if not isinstance(v, list)) if p)
    if value is None or isinstance(value, (bool, dict)):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    try:
        text = str(value)
    except ValueError:
        raise Malformed("bad number") from None
    return _encodable(text)


def _encodable(text: str) -> str:
    """The text with single spaces, if UTF-8 can hold it."""
    if not text.isascii():
        # JSON may hold half of a surrogate pair, which no UTF-8 file can.
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Malformed("wrong encoding") from None
    elif text.isalnum():
        return text
    return " ".join(text.split())


def _number(value: Any) -> float:
    if value is None or isinstance(value, (bool, list, dict)):
        raise Malformed("bad number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Malformed("bad number") from None
    if not math.isfinite(number):
        raise Malformed("bad number")
    return number


def _time_ms(value: Any, unit: str) -> int:
    if value is None or isinstance(value, (bool, list, dict)):
        raise Malformed("bad date")
    try:
        number = float(value)
    except OverflowError:
        raise Malformed("bad date") from None
    except ValueError:
        return _date_ms(str(value).strip())
    if not math.isfinite(number):
        raise Malformed("bad date")
    if unit == "auto":
        unit = "s" if abs(number) < SECONDS_BELOW else "ms"
    # A float holds ms since 1970 exactly, so that rounding loses nothing.
    ms = round(number * 1000) if unit == "s" else round(number)
    if not 0 <= ms < LAST_TIME_MS:
        raise Malformed("bad date")
    return ms


def _date_ms(text: str) -> int:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed("bad date") from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    try:
        ms = round(date.timestamp() * 1000)
    except (OverflowError, ValueError):
        raise Malformed("bad date") from None
    if not 0 <= ms < LAST_TIME_MS:
        raise Malformed("bad date")
    return ms
