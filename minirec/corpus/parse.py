"""Raw rows -> events or catalogue entries, with a reason for each row that is malformed.

One parser serves all file sources: a `FileSpec` says which column plays which role. A parser
never raises on the content of a row, and rows in = good rows + rejected rows.
"""

from __future__ import annotations

import html
import json
import math
import re
from typing import Any

import pyarrow as pa

from minirec.corpus import quoting, times
from minirec.corpus.files import UNREADABLE, FileSpec
from minirec.corpus.prompts import neutralise

TEXT_SHOWN = 200
BAD_ORDER = "bad order"
NULLS = frozenset({"nan", "NaN", "<NA>", "None", "null", "NULL"})
"""What programs write for a missing value."""
OUTSIDE = "rating outside its range"
UNTITLED = "missing title"

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]*|#[0-9]+|#[xX][0-9A-Fa-f]+);")
_TAG = re.compile(
    r"</?(?:a|b|br|div|em|font|h[1-6]|i|li|ol|p|small|span|strong|sub|sup|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)

EVENTS = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("number", pa.float64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
"""Parsed interactions. time is in ms since 1970, or the number of ``corpus.columns.order``; number
is the time as it was written (null for a date). A rejected row has a reason, raw (its first 200
characters) and null in the first five columns, but it keeps a rating outside its range. A good row
has null as reason and raw."""

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
"""Parsed catalogue entries. Rejected rows are as in `EVENTS`, but an entry without a title keeps
its key, so that its events do not count as events on unknown items. category may be null."""


class Malformed(Exception):
    """A row that is not usable; the message is the reason.

    Attributes:
        kept: values by column that the rejected row keeps.
    """

    def __init__(self, reason: str, **kept: Any):
        super().__init__(reason)
        self.kept = kept


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
    names = schema.names[:-4]
    read = _event if schema is EVENTS else _item
    rows: list[tuple] = []
    for path, line, raw in zip(
        lines["file"].to_pylist(), lines["line"].to_pylist(), lines["raw"].to_pylist(), strict=True
    ):
        if line < 0:
            rows.append((*([None] * len(names)), path, line, UNREADABLE, raw.decode()))
            continue
        try:
            rows.append((*read(_fields(raw, specs[path]), specs[path]), path, line, None, None))
        except Malformed as reason:
            shown = raw[: 4 * TEXT_SHOWN].decode("utf-8", errors="replace")[:TEXT_SHOWN]
            kept = (reason.kept.get(name) for name in names)
            rows.append((*kept, path, line, str(reason), shown))
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
    try:
        values = quoting.split(text, spec.delimiter, len(spec.header), quoted=spec.quoted)
    except quoting.BadRow as error:
        raise Malformed(str(error)) from None
    return dict(zip(spec.header, values, strict=True))


def _event(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, float, int, float | None]:
    columns = spec.columns
    user = identifier(row.get(columns["user"]), "missing user")
    item = identifier(row.get(columns["item"]), "missing item")
    low, high = spec.rating_range
    # A source of clicks or purchases has no ratings: each event counts as the highest one.
    rating = _number(row.get(columns["rating"])) if "rating" in columns else high
    if not low <= rating <= high:
        raise Malformed(OUTSIDE, rating=rating)
    return user, item, rating, *_when(row, spec)


def _when(row: dict[str, Any], spec: FileSpec) -> tuple[int, float | None]:
    """Time in ms and the number as written; without times, the order (or 0) and None."""
    if "order" in spec.columns:
        return _order(row.get(spec.columns["order"])), None
    if "time" not in spec.columns:
        return 0, None
    time = row.get(spec.columns["time"])
    if time is None or isinstance(time, (bool, list, dict)):
        raise Malformed(_kind("time", time) or "bad date")
    try:
        return times.read(time)
    except ValueError:
        raise Malformed("bad date") from None


def _order(value: Any) -> int:
    """A whole number; pandas writes 3 as 3.0 beside a gap."""
    if value is None or isinstance(value, (bool, list, dict)):
        raise Malformed(_kind("order", value) or BAD_ORDER)
    try:
        whole = int(value) if isinstance(value, (int, str)) else None
    except ValueError:  # "3.0"
        whole = None
    if whole is None:
        try:
            number = float(value)
        except ValueError:
            raise Malformed(BAD_ORDER) from None
        whole = int(number) if number.is_integer() else 2**63
    if not -(2**63) <= whole < 2**63:
        raise Malformed(BAD_ORDER)
    return whole


def _item(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, str, str | None]:
    columns = spec.columns
    key = identifier(row.get(columns["item"]), "missing item")
    value = row.get(columns["title"])
    title = _plain(value)
    # Prompts drop zero-width and control characters, so a title needs others.
    if not title or (not title.isprintable() and not neutralise(title)):
        raise Malformed(_kind("title", value) or UNTITLED, key=key)
    shown = [columns["text"]] if "text" in columns else []
    parts = [_plain(row.get(name)) for name in (*shown, *spec.extra)]
    if "genres" in shown:  # MovieLens separates them by bars
        parts[0] = parts[0].replace("(no genres listed)", "").replace("|", ", ")
    category = _plain(row.get(columns["category"])) if "category" in columns else ""
    return key, title, " ".join(p for p in parts if p), category or None


def _kind(role: str, value: Any) -> str | None:
    """The reason for a JSON value that cannot be an id, a title or a time."""
    if isinstance(value, bool):
        return f"{role} is true or false"
    if isinstance(value, dict):
        return f"{role} is an object"
    return f"{role} is a list" if isinstance(value, list) else None


def identifier(value: Any, missing: str) -> str:
    """A user id or item key as text without surrounding spaces."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Malformed(_kind(missing.removeprefix("missing "), value) or missing)
    text = _text(value)
    if not text:
        raise Malformed(missing)
    return _encodable(text)


def _text(value: str | int | float) -> str:
    """A value as text; empty for what programs write for a missing value."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        # pandas turns a column of integers with one gap into floats.
        value = int(value) if value.is_integer() else value
    try:
        text = str(value).strip()
    except ValueError:  # an integer of more than 4,300 digits
        raise Malformed("bad number") from None
    return "" if text in NULLS else text


def _plain(value: Any) -> str:
    """Text of a JSON value on one line: lists are joined, other structures are left out.

    HTML entities become characters, and formatting tags become white space.
    """
    if isinstance(value, list):
        return " ".join(p for p in (_plain(v) for v in value if not isinstance(v, list)) if p)
    if value is None or isinstance(value, (bool, dict)):
        return ""
    text = _text(value)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
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
