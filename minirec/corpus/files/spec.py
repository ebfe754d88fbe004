"""What is known of an input file before its rows are read: its format, header and columns."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from minirec.corpus.files import quoting
from minirec.corpus.files.arrow import column_names
from minirec.corpus.notation import PLAIN, Notation
from minirec.errors import CorpusError

PEEKED_LINES = 100
ONE_OBJECT = "write one object per line"
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
        notation: how its numbers and dates are written, and what separates the fields of csv.
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
    notation: Notation = PLAIN

    @property
    def binary(self) -> Literal["parquet", "arrow"] | None:
        """The format if it is Parquet or Arrow, whose columns have types."""
        return self.format if self.format in ("parquet", "arrow") else None

    @property
    def packed(self) -> bool:
        """Whether the file is compressed by gzip."""
        return self.path.lower().endswith(".gz")

    @property
    def has_header(self) -> bool:
        """Whether the first line names the columns."""
        return self.format in ("csv", "tsv")

    @property
    def delimiter(self) -> str:
        """Field separator of csv and tsv."""
        return self.notation.separator if self.format == "csv" else "\t"


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


def read_header(path: str | Path, *, format: Format, separator: str = ",") -> tuple[str, ...]:
    """Columns of a file: its header line, or the keys of its first JSON lines.

    The value ``b`` of the struct or object ``a`` is the column ``a.b``.

    Args:
        separator: between the fields of csv.

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
        raise CorpusError(f"{path} {unreadable(error)}") from None
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
        names = quoting.split(text, separator if format == "csv" else "\t", None)
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
                keys |= dict.fromkeys(_paths(row))
    first = lines[0].removeprefix(b"\xef\xbb\xbf").strip()
    if first.startswith(b"["):
        raise CorpusError(f"{path} holds a JSON array; {ONE_OBJECT} (`jq -c '.[]' FILE`)")
    if not keys and first.startswith(b"{") and not first.endswith(b"}"):
        raise CorpusError(f"{path} has JSON objects over several lines; {ONE_OBJECT} (`jq -c .`)")
    if not keys:
        raise CorpusError(f"{path}, line 1: not a JSON object: {lines[0][:80]!r}; {ONE_OBJECT}")
    return tuple(keys)


def _paths(row: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of an object, and of the objects in it with a dot between."""
    for key, value in row.items():
        yield above + key
        if isinstance(value, dict):
            yield from _paths(value, f"{above}{key}.")


def unreadable(error: BaseException) -> str:
    """Why a file cannot be read to its end, to follow its name in a sentence."""
    if isinstance(error, EOFError):
        return "is a truncated .gz file; fetch it again"
    if isinstance(error, (zlib.error, gzip.BadGzipFile)):
        return f"is a damaged .gz file ({error}); fetch it again"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"is damaged ({str(error).splitlines()[0]}); fetch it again"
