"""Reads and writes the files of `minirec recommend --users`.

They are read by the reader of the corpus, so that ids are interpreted in the same way.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.parse import Malformed, beginning, identifier
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.spec import FileSpec, read_header
from minirec.corpus.files.vectorised import parse
from minirec.corpus.ids import known_key
from minirec.errors import CorpusError
from minirec.store.files import atomic

FORMATS: dict[str, Literal["jsonl", "parquet"]] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
}


@dataclass(frozen=True)
class Refused:
    """A row that is not ranked: its line (in Parquet its row) from 1, the reason, its beginning."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Users:
    """U usable users and the refused rows of a file, both in the order of the file.

    Attributes:
        ids: (U,) as in the file: a Parquet column, or values of JSON lines.
        histories: U lists of item keys, oldest first.
        refused: the other rows.
        ratings: of the items of each history, or None where the file has none.
    """

    ids: pa.ChunkedArray | list[Any]
    histories: list[list[str]]
    refused: list[Refused]
    ratings: list[list[float] | None]


def format_of(path: Path) -> Literal["jsonl", "parquet"]:
    """The format of a file by its ending; raises `CorpusError` for another ending."""
    for ending, format in FORMATS.items():
        if path.name.lower().endswith(ending):
            return format
    raise CorpusError(f"{path} does not end with {', '.join(FORMATS)}; give a file of these kinds")


def read_users(path: Path, known: Collection[str]) -> Users:
    """Users and histories of a file.

    Args:
        path: Parquet or JSON lines with ``user`` and ``history``, a list of item keys, and
            optionally ``ratings``, a list with the rating of each.
        known: keys that a history may hold.

    Raises:
        CorpusError: the file cannot be read to its end, lacks a column, or has no row.
    """
    columns = {"user": "user", "history": "history", "ratings": "ratings"}
    spec = _spec(path, "events", columns, required=2)
    ids: list[Any] = []
    rows: list[int] = []
    histories: list[list[str]] = []
    ratings: list[list[float] | None] = []
    refused: list[Refused] = []
    for number, (line, raw) in enumerate(_rows(spec)):
        try:
            user, history, rated = _user(raw, known)
        except Malformed as error:
            refused.append(Refused(line, str(error), beginning(raw)))
            continue
        ids.append(user)
        rows.append(number)
        histories.append(history)
        ratings.append(rated)
    if not ids and not refused:
        raise CorpusError(f"{path} holds no user; give a file with rows")
    if spec.format == "parquet":
        # JSON would turn dates into text, which would not join with the dates of the file.
        column = pq.ParquetFile(path).read(columns=["user"])["user"]
        return Users(column.take(pa.array(rows, pa.int64())), histories, refused, ratings)
    return Users(ids, histories, refused, ratings)


def _user(raw: bytes, known: Collection[str]) -> tuple[Any, list[str], list[float] | None]:
    """The id as given, the keys of the history, and its ratings, if any."""
    row = _object(raw)
    user, history = row.get("user"), row.get("history")
    _checked(user, "missing user")
    if not isinstance(history, list):
        what = "missing history" if history is None else "the history is not a list"
        raise Malformed(f"{what}; give a list of item keys, oldest first")
    if not history:
        raise Malformed("the history is empty")
    keys = [known_key(_checked(key, "missing item"), known) for key in history]
    if unknown := next((key for key in keys if key not in known), None):
        raise Malformed(f"no item has the key {_short(unknown)}")
    return user, keys, _ratings(row.get("ratings"), len(keys))


def _ratings(given: Any, items: int) -> list[float] | None:
    """The ratings of the items of a history; None if there are none."""
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != items:
        raise Malformed("ratings is not a list with a number for each item of the history")
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one):
            raise Malformed(f"the rating {_short(one)} is not a number")
    return [float(one) for one in given]


def _object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise Malformed("wrong encoding; write UTF-8") from None
    except (ValueError, RecursionError):
        raise Malformed("broken JSON; write one object per line") from None
    if not isinstance(row, dict):
        raise Malformed("not a JSON object; write one object per line")
    return row


def _checked(value: Any, missing: str) -> str:
    """The value as an id of the corpus; `missing` is the reason if it is not text or a number."""
    try:
        return identifier(value, missing)
    except Malformed as error:
        raise Malformed(f"{error}: {_short(value)} is not an id; give text or a number") from None


def _short(value: Any) -> str:
    """A value for a message; `repr` escapes halves of surrogate pairs."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def read_items(path: Path, known: Collection[str]) -> tuple[tuple[str, str, str], ...]:
    """Keys, titles and texts of new items; the text may be missing.

    Raises:
        CorpusError: a column or a value is missing, or a key is duplicate or among `known`. No
            item is skipped, since that would change the ranking of every user.
    """
    spec = _spec(path, "items", {"item": "key", "title": "title", "text": "text"}, required=2)
    place = "row" if spec.format == "parquet" else "line"
    items: dict[str, tuple[str, str, str]] = {}
    for block in read_blocks(spec):
        for row in parse(block, {str(path): spec}).to_pylist():
            key, reason = row["key"], row["reason"]
            if row["line"] < 0:
                raise CorpusError(f"{path} {row['raw']}")
            if reason is not None:
                reason += "; it needs key and title, maybe text"
            elif key in known:
                reason = f"item {_short(key)} is in the catalogue already; leave it out"
            elif key in items:
                reason = f"the key {_short(key)} is in the file twice; remove one"
            if reason is not None:
                raise CorpusError(f"{path} {place} {row['line']}: {reason}")
            items[key] = (key, row["title"], row["text"])
    return tuple(items.values())


def _spec(
    path: Path, kind: Literal["events", "items"], columns: dict[str, str], *, required: int
) -> FileSpec:
    """How to read the file; the first `required` columns must be there."""
    format = format_of(path)
    if not path.is_file():
        what = "is a folder; give one file" if path.is_dir() else "is missing; give a file"
        raise CorpusError(f"{path} {what}")
    # JSON lines say in each row which columns they have.
    if format == "parquet":
        names = read_header(path, format=format)
        needed = list(columns.values())[:required]
        if missing := next((name for name in needed if name not in names), None):
            raise CorpusError(f"{path} has no column {missing}; it needs {' and '.join(needed)}")
        columns = {role: name for role, name in columns.items() if name in names}
    return FileSpec(path=str(path), kind=kind, format=format, header=(), columns=columns)


def _rows(spec: FileSpec) -> Iterator[tuple[int, bytes]]:
    for line, raw in read_rows(spec):
        if line < 0:
            raise CorpusError(f"{spec.path} {raw.decode()}")
        yield line, raw


def refused_path(out: Path) -> Path:
    """The file for the refused rows of a command that writes `out`."""
    name = out.name
    ending = next((e for e in FORMATS if name.lower().endswith(e)), "")
    return out.with_name(f"{name[: len(name) - len(ending)]}-refused.jsonl")


def write_refused(out: Path, refused: Sequence[Refused]) -> Path | None:
    """Write the refused rows beside `out`; without any, delete the file of an earlier call."""
    path = refused_path(out)
    if not refused:
        path.unlink(missing_ok=True)
        return None
    write_rows(path, ({"line": r.line, "reason": r.reason, "raw": r.raw} for r in refused))
    return path


def write_ranked(path: Path, ids: pa.ChunkedArray | list[Any], ranked: pa.Table) -> None:
    """Write a column ``user`` of U ids and the columns of `ranked`, U rows, atomically."""
    if format_of(path) == "jsonl":
        values = ids if isinstance(ids, list) else ids.to_pylist()
        both = zip(values, ranked.to_pylist(), strict=True)
        write_rows(path, ({"user": user} | row for user, row in both))
        return
    column = _one_type(ids) if isinstance(ids, list) else ids
    with atomic(path) as file:
        pq.write_table(ranked.add_column(0, "user", column), file)


def _one_type(ids: Sequence[Any]) -> pa.Array:
    """Ids of JSON lines as one column; ids of different types become text."""
    if len({type(value) for value in ids}) == 1:
        try:
            return pa.array(ids)
        except (pa.ArrowException, OverflowError):  # integers beyond 64 bits
            pass
    return pa.array([str(value) for value in ids], pa.string())


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines atomically, compressed if the name ends with .gz."""
    with atomic(path) as file:
        packed = path.name.lower().endswith(".gz")
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if packed else nullcontext(file) as to:
            for row in rows:
                to.write((json.dumps(row, ensure_ascii=False, default=_text) + "\n").encode())


def _text(value: Any) -> str:
    """Dates, decimals and bytes as the text that the reader of the corpus takes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
