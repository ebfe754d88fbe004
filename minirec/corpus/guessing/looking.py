"""Looks at the first rows of a table whose columns are not known yet."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minirec.corpus.files.finding import Table, format_of, partition
from minirec.corpus.files.parse import NULLS, Malformed, row_values
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.spec import FileSpec, read_header
from minirec.corpus.notation import PLAIN, Notation
from minirec.errors import CorpusError

MOST_ROWS = 100_000
SEPARATORS = (",", ";", "\t", "|")
JUDGED = 5_000
"""Number of rows by which a column is judged."""
ENCODING = "wrong encoding"
"""The reason of `Malformed` for a row that is not UTF-8."""
TO_UTF8 = "iconv -f windows-1252 -t utf-8 OLD.csv > NEW.csv"


@dataclass(frozen=True)
class Look:
    """The first rows of a table.

    Attributes:
        table: its files.
        names: columns that hold values; not the structs around them.
        rows: values by column, at most `MOST_ROWS`.
        whole: whether these are all rows.
        separator: between the fields of csv.
        lists: columns that hold lists.
    """

    table: Table
    names: tuple[str, ...]
    rows: list[dict[str, Any]]
    whole: bool
    separator: str
    lists: tuple[str, ...] = ()

    def texts(self, name: str, most: int = JUDGED) -> list[str]:
        """The values of a column in the first rows as texts, without missing ones."""
        return texts([row.get(name) for row in self.rows[:most]])


def texts(values: list[Any]) -> list[str]:
    """Values as texts, without missing ones, lists and objects."""
    plain = (v for v in values if v is not None and not isinstance(v, (list, dict)))
    found = (str(v).lower() if isinstance(v, bool) else str(v).strip() for v in plain)
    return [text for text in found if text and text not in NULLS]


def look(table: Table) -> Look:
    """The first rows of a table.

    Raises:
        CorpusError: it is empty, or cannot be read.
    """
    separator = _separator(table.files[0])
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    whole, refused = True, Counter[str]()
    for file in table.files:
        spec = _spec(file, separator)
        names |= dict.fromkeys([*spec.columns.values(), *spec.partition])
        read = read_rows(spec)
        for line, raw in itertools.islice(read, MOST_ROWS - len(rows)):
            if line < 0:
                raise CorpusError(f"{file} {raw.decode()}")
            try:
                rows.append(spec.partition | row_values(raw, spec))
            except Malformed as error:
                refused[str(error)] += 1
        if next(read, None) is not None or len(rows) >= MOST_ROWS:
            whole = False
            break
    if not rows:
        reason = refused.most_common(1)[0][0] if refused else ""
        way = f"convert it to UTF-8, e.g. `{TO_UTF8}`" if reason == ENCODING else "correct the rows"
        why = f": {reason}; {way}" if refused else "; give a table with rows"
        raise CorpusError(f"{table.path} has no row that can be read{why}")
    judged = rows[:JUDGED]
    nested = [n for n in names if any(isinstance(row.get(n), dict) for row in judged)]
    lists = [n for n in names if any(isinstance(row.get(n), list) for row in judged)]
    kept = tuple(name for name in names if name not in nested and name not in lists and name)
    return Look(table, kept, rows, whole, separator, tuple(lists))


def _spec(file: Path, separator: str) -> FileSpec:
    """A spec that reads all columns; its roles are no roles of events."""
    format = format_of(file)
    header = read_header(file, format=format, separator=separator)
    columns = {f"column {place}": name for place, name in enumerate(dict.fromkeys(header))}
    folders = {name: value for name, value in partition(file).items() if name not in header}
    spec = FileSpec(str(file), "events", format, (), columns, partition=folders)
    if spec.has_header:
        spec = replace(spec, header=header)
    return replace(spec, notation=replace(PLAIN, separator=separator))


def _separator(file: Path) -> str:
    """The character that makes the most fields of the header of a csv file."""
    if format_of(file) != "csv":
        return ","

    def fields(separator: str) -> int:
        try:
            return len(read_header(file, format="csv", separator=separator))
        except CorpusError:
            return 0

    return max(SEPARATORS, key=fields)  # of several the first


def notation_of(looked: Look, *, decimal_comma: bool, dates: str | None) -> Notation:
    """The notation of a table."""
    return Notation(looked.separator, decimal_comma, dates)


def shown(value: Any, most: int = 40) -> str:
    """A value for a message."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"
