"""Parses raw rows into events or catalogue entries, and gives a reason for each malformed row.

One parser serves all sources: a `FileSpec` says which column has which role. It never raises on the
content of a row, and it returns every row, good or rejected.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from minirec.corpus.files import quoting, times
from minirec.corpus.files.event_types import DROPPED, UNLISTED
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.notation import PLAIN, Notation
from minirec.corpus.prompts import neutralise
from minirec.corpus.weights import read_number

TEXT_SHOWN = 200
BAD_ORDER = "bad order"
NULLS = frozenset({"nan", "NaN", "<NA>", "None", "null", "NULL"})
"""What programs write for a missing value."""
UNREADABLE = "unreadable file"
"""Reason of the pseudo-row that reports why a file cannot be read to its end."""
OUTSIDE = "rating outside its range"
UNTITLED = "missing title"

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]*|#[0-9]+|#[xX][0-9A-Fa-f]+);")
_TAG = re.compile(
    r"</?(?:a|b|br|div|em|font|h[1-6]|i|li|ol|p|small|span|strong|sub|sup|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)

FILE = pa.dictionary(pa.int32(), pa.string())
"""The path of a file; one copy serves all rows of a block."""

_SOURCE = [
    ("file", FILE),
    ("line", pa.int64()),
    ("reason", pa.string()),
    ("raw", pa.string()),
]
EVENTS = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("number", pa.float64()),
        *_SOURCE,
    ]
)
"""Parsed interactions. time is in ms since 1970, or the number of ``corpus.columns.order``; number
is the time as written (null for a date). A rejected row has a reason, raw (its first 200
characters) and null in the first five columns; only a rating outside its range is kept. A good row
has null as reason and raw."""

CATALOGUE = pa.schema(
    [
        ("key", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("weight", pa.float64()),
        *_SOURCE,
    ]
)
"""Parsed catalogue entries; category and weight may be null. Rejected rows are as in `EVENTS`, but
an entry without a title keeps its key, so that its events do not count as events on unknown
items."""


class Malformed(Exception):
    """An unusable row; the message is the reason, `kept` the values that stay, by column."""

    def __init__(self, reason: str, **kept: Any):
        super().__init__(reason)
        self.kept = kept


def parse_rows(rows: Iterable[quoting.Line], spec: FileSpec) -> pa.Table:
    """Parse rows of a file one by one; the reference of `minirec.corpus.files.vectorised`.

    Args:
        rows: as `minirec.corpus.files.rows.read_rows` gives them. The line -1 reports why the file
            cannot be read to its end.

    Returns:
        `EVENTS` or `CATALOGUE` with the rows in the same order.
    """
    schema = EVENTS if spec.kind == "events" else CATALOGUE
    names = schema.names[: -len(_SOURCE)]
    read = _event if schema is EVENTS else _item
    parsed: list[tuple] = []
    for line, raw in rows:
        if line < 0:
            parsed.append((*([None] * len(names)), line, UNREADABLE, raw.decode()))
            continue
        try:
            fields = row_values(raw, spec)
            fields = spec.partition | fields if spec.partition else fields
            parsed.append((*read(fields, spec), line, None, None))
        except Malformed as reason:
            kept = (reason.kept.get(name) for name in names)
            shown = reason.kept.get("raw") or beginning(raw)
            parsed.append((*kept, line, str(reason), shown))
    rest = schema.remove(schema.get_field_index("file"))
    columns = zip(*parsed, strict=True) if parsed else [()] * len(rest)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, rest, strict=True)]
    arrays.insert(len(names), file_column(spec.path, len(parsed)))
    return pa.table(arrays, schema=schema)


def file_column(path: str, n: int) -> pa.DictionaryArray:
    """The column ``file`` of n rows of one file."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), n), [path])


def beginning(raw: bytes) -> str:
    """The first `TEXT_SHOWN` characters of a row."""
    return raw[: 4 * TEXT_SHOWN].decode("utf-8", errors="replace")[:TEXT_SHOWN]


def row_values(raw: bytes, spec: FileSpec) -> dict[str, Any]:
    """The values of a row by column; raises `Malformed`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("wrong encoding") from None
    if spec.format not in ("csv", "tsv"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise Malformed("broken JSON")
        return row if spec.binary else row | _inner(row, spec)
    try:
        values = quoting.split(text, spec.delimiter, len(spec.header), quoted=spec.quoted)
    except quoting.BadRow as error:
        raise Malformed(str(error)) from None
    return dict(zip(spec.header, values, strict=True))


def _inner(row: dict[str, Any], spec: FileSpec) -> dict[str, Any]:
    """The values of objects in a row that are read as columns such as ``a.b``."""
    found = {}
    for name in spec.columns.values():
        if "." in name and name not in row:
            value: Any = row
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            found[name] = value
    return found


def _event(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, float, int, float | None]:
    columns = spec.columns
    rating = _rating_of_type(row, spec)
    user = identifier(row.get(columns["user"]), "missing user")
    item = identifier(row.get(columns["item"]), "missing item")
    low, high = spec.rating_range
    if rating is None:
        # Clicks or purchases have no ratings: each event counts as the highest rating.
        value = row.get(columns["rating"]) if "rating" in columns else high
        rating = read_rating(value, spec.notation)
    if not low <= rating <= high:
        raise Malformed(OUTSIDE, rating=rating)
    return user, item, rating, *_when(row, spec)


def _rating_of_type(row: dict[str, Any], spec: FileSpec) -> float | None:
    """The rating that ``corpus.events`` gives to the type of an event; None if it is only kept."""
    if "event" not in spec.columns:
        return None
    kind = read_type(row.get(spec.columns["event"]))
    use = spec.event_types.get(kind)
    if use is None:
        raise Malformed(UNLISTED)
    if use == "drop":
        raise Malformed(DROPPED, raw=kind)
    return None if use == "keep" else float(use)


def read_type(value: Any) -> str:
    """The type of an event."""
    # A column such as is_purchase is boolean in JSON and Parquet.
    return identifier(str(value).lower() if isinstance(value, bool) else value, "missing event")


def _when(row: dict[str, Any], spec: FileSpec) -> tuple[int, float | None]:
    """Time in ms and the number as written; without times the order (or 0) and None."""
    if "order" in spec.columns:
        return read_order(row.get(spec.columns["order"])), None
    if "time" not in spec.columns:
        return 0, None
    return read_time(row.get(spec.columns["time"]), spec.notation)


def read_time(time: Any, notation: Notation = PLAIN) -> tuple[int, float | None]:
    """A time in ms and the number as written; raises `Malformed`."""
    if time is None or isinstance(time, (bool, list, dict)):
        raise Malformed(_kind("time", time) or "bad date")
    try:
        return times.read(time, notation)
    except ValueError:
        raise Malformed("bad date") from None


def read_order(value: Any) -> int:
    """A whole number of 64 bits; raises `Malformed`.

    pandas writes 3 as 3.0 in a column with missing values.
    """
    if value is None or isinstance(value, (bool, list, dict)):
        raise Malformed(_kind("order", value) or BAD_ORDER)
    with contextlib.suppress(InvalidOperation):  # not a number
        number = Decimal(value)
        if -(2**63) <= number < 2**63 and number == number.to_integral_value():
            return int(number)
    raise Malformed(BAD_ORDER)


def _item(row: dict[str, Any], spec: FileSpec) -> tuple[str, str, str, str | None, float | None]:
    columns = spec.columns
    key = identifier(row.get(columns["item"]), "missing item")
    value = row.get(columns["title"])
    title = read_text(value)
    if shows_nothing(title):
        raise Malformed(_kind("title", value) or UNTITLED, key=key)
    shown = [columns["text"]] if "text" in columns else []
    parts = [read_text(row.get(name)) for name in (*shown, *spec.extra)]
    if "genres" in shown:
        parts[0] = bars_to_commas(parts[0])
    category = read_text(row.get(columns["category"])) if "category" in columns else ""
    weight = None
    if "weight" in columns:
        weight = read_number(row.get(columns["weight"]), spec.notation)
    return key, title, " ".join(p for p in parts if p), category or None, weight


def shows_nothing(title: str) -> bool:
    """Whether a title is empty in a prompt, which drops zero-width and control characters."""
    return not title or (not title.isprintable() and not neutralise(title))


def bars_to_commas(genres: str) -> str:
    """Genres as MovieLens separates them -> as a text."""
    return genres.replace("(no genres listed)", "").replace("|", ", ")


def _kind(role: str, value: Any) -> str | None:
    """The reason why a JSON value cannot be an id, a title or a time; None for other values."""
    if isinstance(value, bool):
        return f"{role} is true or false"
    if isinstance(value, dict):
        return f"{role} is an object"
    return f"{role} is a list" if isinstance(value, list) else None


def identifier(value: Any, missing: str) -> str:
    """A user id or item key as text without surrounding spaces; raises `Malformed`."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Malformed(_kind(missing.removeprefix("missing "), value) or missing)
    text = _text(value)
    if not text:
        raise Malformed(missing)
    return _encodable(text)


def _text(value: str | int | float) -> str:
    """A value as text; empty for a missing value."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        # pandas turns integers into floats in a column with missing values.
        value = int(value) if value.is_integer() else value
    try:
        text = str(value).strip()
    except ValueError:  # an integer of more than 4,300 digits
        raise Malformed("bad number") from None
    return "" if text in NULLS else text


def read_text(value: Any) -> str:
    """Text of a JSON value on one line, without HTML; lists are joined, objects are left out."""
    if isinstance(value, list):
        return " ".join(p for p in (read_text(v) for v in value if not isinstance(v, list)) if p)
    if value is None or isinstance(value, (bool, dict)):
        return ""
    text = _text(value)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return _encodable(text)


def _encodable(text: str) -> str:
    """The text with single spaces; `Malformed` if it cannot be encoded in UTF-8."""
    if not text.isascii():
        # JSON may hold half of a surrogate pair, which UTF-8 cannot encode.
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Malformed("wrong encoding") from None
    elif text.isalnum():
        return text
    return " ".join(text.split())


def read_rating(value: Any, notation: Notation = PLAIN) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(notation.number(value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Malformed("bad number")
    return number
