"""Reads an input file row by row; the reference of the reader of blocks.

Rows are raw bytes, so that the parser can reject a row for its encoding.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from minirec.corpus.files import quoting, times
from minirec.corpus.files.arrow import record_batches
from minirec.corpus.files.quoting import Line
from minirec.corpus.files.spec import FileSpec, open_bytes, unreadable

BATCH_ROWS = 50_000
BOM = b"\xef\xbb\xbf"
REQUIRED = ("event", "user", "item", "time", "order", "title")
"""Roles without which a row is rejected."""


def read_rows(spec: FileSpec) -> Iterator[Line]:
    """Number, from 1, and bytes of each row of a file, without the header and blank lines.

    If the file cannot be read to its end, the last row has the number -1 and an error message as
    bytes: an exception in a Ray task would print a traceback.
    """
    try:
        if spec.binary:
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches(spec))
            yield from enumerate(map(as_json, rows), start=1)
            return
        with open_bytes(spec.path) as file:
            yield from rows_of_lines(file, spec)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        yield -1, unreadable(error).encode()


def rows_of_lines(lines: Iterable[bytes], spec: FileSpec, *, first: int = 1) -> Iterator[Line]:
    """Rows of a text file.

    Args:
        lines: lines with their line breaks.
        first: number of the first line. In csv and tsv, line 1 is the header.
    """
    # In TSV a line of tabs only is a row with empty fields.
    numbered = _numbered(lines, first=first, blank=b" " if spec.format == "tsv" else None)
    if spec.has_header and first == 1:
        next(numbered, None)
    if not (spec.quoted and spec.has_header):
        return numbered
    columns = {
        role: name
        for role, name in (spec.as_events or spec.columns).items()
        if name not in spec.partition
    }
    return quoting.join(
        numbered,
        spec.delimiter,
        len(spec.header),
        like_a_row=lambda fields: _like_a_row(spec, columns, fields),
        # A text may hold commas, but hardly ever a valid time in the right place.
        share=0 if {"time", "order"} & columns.keys() else 0.5,
    )


def _numbered(lines: Iterable[bytes], *, first: int, blank: bytes | None) -> Iterator[Line]:
    """Numbered lines without those that hold only `blank` characters (None: white space)."""
    for number, raw in enumerate(lines, start=first):
        raw = raw.rstrip(b"\r\n")
        if number == 1:
            raw = raw.removeprefix(BOM)
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
            times.read(row[columns["time"]], spec.notation)
        if "order" in columns:
            float(row[columns["order"]])
    except ValueError:
        return False
    return True


def wanted(spec: FileSpec) -> set[str]:
    """The columns that are read."""
    return {*spec.columns.values(), *spec.extra}


def batches(spec: FileSpec, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """The wanted columns of a range of rows of a Parquet or Arrow file, in order.

    Args:
        start: the first row, from 0.
        stop: the row after the last one, None for the end of the file.
    """
    assert spec.binary
    return record_batches(
        Path(spec.path), spec.binary, columns=wanted(spec), rows=BATCH_ROWS, start=start, stop=stop
    )


def as_json(row: dict[str, Any]) -> bytes:
    """A row as JSON, so that one parser checks all formats.

    Bytes that are not UTF-8 stay, so that the parser rejects the row.
    """

    def text(value: Any) -> str | int:
        if isinstance(value, Decimal) and value == value.to_integral_value():
            return int(value)
        return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)

    return json.dumps(row, default=text, ensure_ascii=False).encode("utf-8", "surrogateescape")
