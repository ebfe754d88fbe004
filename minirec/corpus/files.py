"""Reads headers of input files, and their rows in blocks of bounded size.

Rows are raw bytes, so that the parser can reject a row for its encoding.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from minirec.corpus import quoting, times
from minirec.corpus.arrow import column_names, record_batches
from minirec.errors import CorpusError

BLOCK_ROWS = 50_000
BLOCK_BYTES = 8 << 20
PEEKED_LINES = 100
ONE_OBJECT = "write one object per line"
UNREADABLE = "unreadable file"
"""Reason of the pseudo-row that reports why a file cannot be read to its end."""

LINES = pa.schema([("file", pa.string()), ("line", pa.int64()), ("raw", pa.binary())])
"""A block of rows of a file; line counts from 1."""

REQUIRED = ("event", "user", "item", "time", "order", "title")
"""Roles without which a row is rejected."""

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow"]


@dataclass(frozen=True)
class FileSpec:
    """How to read one input file.

    Attributes:
        path: the file, plain or .gz (Parquet and Arrow: never .gz).
        kind: ``events`` (one interaction a row) or ``items`` (one catalogue entry a row).
        format: csv and tsv have a header line; a row of the others names its columns.
        header: columns of a csv or tsv file in order, else empty.
        columns: role -> column. Events have the roles user, item, rating and event (both optional),
            and time or order (neither if the order of the rows counts). Items have item, title, and
            optionally text, category and weight.
        extra: columns that are appended to an item's text.
        rating_range: lowest and highest valid rating.
        quoted: whether quotes in csv and tsv have a meaning.
        as_events: columns of the events if the titles are in the interaction files. The reader
            uses them to distinguish rows from lines of a text.
        partition: column -> value of the used columns that exist only in the names of the folders
            of the file.
        event_types: ``corpus.events``, type of an event -> ``drop``, ``keep`` or its rating; empty
            without the role event.
    """

    path: str
    kind: Literal["events", "items"]
    format: Format
    header: tuple[str, ...]
    columns: dict[str, str]
    extra: tuple[str, ...] = ()
    rating_range: tuple[float, float] = (0.0, 5.0)
    quoted: bool = True
    as_events: dict[str, str] = field(default_factory=dict)
    partition: dict[str, str] = field(default_factory=dict)
    event_types: dict[str, str | float] = field(default_factory=dict)

    @property
    def delimiter(self) -> str:
        """Field separator of csv and tsv."""
        return "," if self.format == "csv" else "\t"


def unpacked(name: str) -> str:
    """A file name without .gz."""
    return name[:-3] if name.lower().endswith(".gz") else name


def stem(path: str | Path) -> str:
    """File name without .gz and its extension: ``a/All_Beauty.csv.gz`` -> ``All_Beauty``."""
    return unpacked(Path(path).name).rsplit(".", 1)[0]


def open_bytes(path: str | Path) -> BinaryIO:
    """Open a plain or .gz file for reading bytes."""
    if str(path).lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def read_header(path: str | Path, *, format: Format) -> tuple[str, ...]:
    """Columns of a file: its header line, or the keys of its first JSON lines.

    Raises:
        CorpusError: the file is empty, cannot be read, has no valid header (csv, tsv), or has no
            JSON object in its first `PEEKED_LINES` lines.
    """
    path = Path(path)
    if format in ("parquet", "arrow"):
        return column_names(path, format)
    try:
        with open_bytes(path) as file:
            lines = list(itertools.islice(file, PEEKED_LINES if format == "jsonl" else 1))
            more = next(file, b"")
    except (EOFError, zlib.error, OSError) as error:
        raise CorpusError(f"{path} {_unreadable(error)}") from None
    if format == "jsonl":
        lines = [line for line in lines if line.strip()]
    elif lines and not lines[0].strip() and more.strip():
        raise CorpusError(f"{path} begins with a blank line; its first line must be the header")
    if not lines or not lines[0].strip():
        raise CorpusError(f"{path} is empty; give a file with rows, or another corpus.path")
    if format == "jsonl":
        return _json_keys(path, lines)
    line = lines[0].removeprefix(b"\xef\xbb\xbf")
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        names = quoting.split(text, "," if format == "csv" else "\t", None)
    except UnicodeDecodeError:
        raise CorpusError(f"{path}, line 1: not UTF-8; convert the file to UTF-8") from None
    except quoting.BadRow as error:
        raise CorpusError(f"{path}, line 1: {error} in the header: {text[:80]!r}") from None
    return tuple(name.strip() for name in names)


def _json_keys(path: Path, lines: list[bytes]) -> tuple[str, ...]:
    # The parser rejects broken lines later; the other lines name the columns.
    keys: dict[str, None] = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                keys |= dict.fromkeys(row)
    first = lines[0].removeprefix(b"\xef\xbb\xbf").strip()
    if first.startswith(b"["):
        raise CorpusError(f"{path} holds a JSON array; {ONE_OBJECT} (`jq -c '.[]' FILE`)")
    if not keys and first.startswith(b"{") and not first.endswith(b"}"):
        raise CorpusError(f"{path} has JSON objects over several lines; {ONE_OBJECT} (`jq -c .`)")
    if not keys:
        raise CorpusError(f"{path}, line 1: not a JSON object: {lines[0][:80]!r}; {ONE_OBJECT}")
    return tuple(keys)


def read_blocks(spec: FileSpec) -> Iterator[pa.Table]:
    """Rows of a file as `LINES` tables of at most `BLOCK_ROWS` rows or about `BLOCK_BYTES` bytes.

    Headers and blank lines are left out. If the file cannot be read to its end, the last row has
    line -1 and an error message as bytes: an exception in a Ray task would print a traceback.
    """
    source = _binary_rows(spec) if spec.format in ("parquet", "arrow") else _text_rows(spec)
    lines: list[int] = []
    raws: list[bytes] = []
    size = 0
    try:
        for number, raw in source:
            lines.append(number)
            raws.append(raw)
            size += len(raw)
            if len(lines) >= BLOCK_ROWS or size >= BLOCK_BYTES:
                yield _block(spec.path, lines, raws)
                lines, raws, size = [], [], 0
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        lines.append(-1)
        raws.append(_unreadable(error).encode())
    if lines:
        yield _block(spec.path, lines, raws)


def _block(path: str, lines: list[int], raws: list[bytes]) -> pa.Table:
    return pa.table({"file": [path] * len(lines), "line": lines, "raw": raws}, schema=LINES)


def _text_rows(spec: FileSpec) -> Iterator[tuple[int, bytes]]:
    has_header = spec.format in ("csv", "tsv")
    columns = {
        role: name
        for role, name in (spec.as_events or spec.columns).items()
        if name not in spec.partition
    }
    with open_bytes(spec.path) as file:
        # In TSV a line of tabs only is a row with empty fields.
        numbered = _numbered(file, blank=b" " if spec.format == "tsv" else None)
        if has_header:
            next(numbered, None)
        if not (spec.quoted and has_header):
            yield from numbered
            return
        yield from quoting.join(
            numbered,
            spec.delimiter,
            len(spec.header),
            like_a_row=lambda fields: _like_a_row(spec, columns, fields),
            # A text may hold commas, but hardly ever a valid time in the right place.
            share=0 if {"time", "order"} & columns.keys() else 0.5,
        )


def _numbered(file: BinaryIO, *, blank: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without those that hold only `blank` characters (None: white space)."""
    for number, raw in enumerate(file, start=1):
        raw = raw.rstrip(b"\r\n")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if number == 1 or raw.strip(blank):
            yield number, raw


def _like_a_row(spec: FileSpec, columns: dict[str, str], fields: list[str]) -> bool:
    """Whether these fields can be a row, and not a line of a text with separators."""
    row = dict(zip(spec.header, fields, strict=True))
    needed = [row[column] for role, column in columns.items() if role in REQUIRED]
    ids = [row[column] for role, column in columns.items() if role in ("user", "item")]
    if not all(value.strip() for value in needed):
        return False
    # An id has no quote, but the end of a quoted text has. A line of a text may be indented.
    if any('"' in value or value != value.strip() for value in ids):
        return False
    # In a sentence a space follows the comma.
    if spec.format == "csv" and any(field.startswith(" ") for field in fields):
        return False
    try:
        if "time" in columns:
            times.read(row[columns["time"]])
        if "order" in columns:
            float(row[columns["order"]])
    except ValueError:
        return False
    return True


def _binary_rows(spec: FileSpec) -> Iterator[tuple[int, bytes]]:
    """Rows of Parquet or Arrow as JSON, so that one parser checks all formats."""
    assert spec.format in ("parquet", "arrow")
    wanted = {*spec.columns.values(), *spec.extra}
    batches = record_batches(Path(spec.path), spec.format, columns=wanted, rows=BLOCK_ROWS)
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    yield from enumerate(map(_json, rows), start=1)


def _json(row: dict[str, Any]) -> bytes:
    """A row as JSON. Bytes that are not UTF-8 stay, so that the parser rejects the row."""

    def text(value: Any) -> str | int:
        if isinstance(value, Decimal) and value == value.to_integral_value():
            return int(value)
        return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)

    return json.dumps(row, default=text, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _unreadable(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "is a truncated .gz file; fetch it again"
    if isinstance(error, (zlib.error, gzip.BadGzipFile)):
        return f"is a damaged .gz file ({error}); fetch it again"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"is damaged ({str(error).splitlines()[0]}); fetch it again"
