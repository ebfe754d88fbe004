"""Finds the tables behind a path, and guesses which are interactions and which the catalogue."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import saved
from minirec.corpus.files.finding import (
    PATTERN,
    TABLES,
    Table,
    chosen,
    format_of,
    is_table,
    listed,
    partition,
)
from minirec.corpus.files.sources import EVENTS_NAMES, locate
from minirec.corpus.files.spec import read_header
from minirec.corpus.guessing.guesses import Guess, guess
from minirec.corpus.guessing.looking import Look, look
from minirec.corpus.guessing.notations import is_text
from minirec.errors import CorpusError

FIXED = ("movielens", "amazon", "recbole")
"""Sources whose files are known by their names and columns."""
MOST_TABLES = 12
"""Number of tables of a folder that are looked at."""
OVERLAP = 0.3
"""Share of the items of events that a catalogue must know."""


@dataclass(frozen=True)
class Catalogue:
    """A table with titles of items, and its columns by role: item, title, perhaps text."""

    look: Look
    columns: dict[str, str]


@dataclass(frozen=True)
class Draft:
    """What a path holds.

    Attributes:
        source: value of ``corpus.source``.
        path: value of ``corpus.path``, None if a file or pattern was given.
        ratings: value of ``corpus.ratings``, empty to let the source find the files.
        look, guess: the interactions; None for a source with fixed columns.
        catalogue: the table with the titles, if any.
        beside: a table with titles that was found beside a file.
    """

    source: str
    path: str | None
    ratings: tuple[str, ...] = ()
    look: Look | None = None
    guess: Guess | None = None
    catalogue: Catalogue | None = None
    beside: Catalogue | None = None


def draft(path: str) -> Draft:
    """Look at a file, a folder or a pattern.

    Raises:
        CorpusError: it is missing, cannot be read, or holds no interactions.
    """
    place = Path(path)
    if not place.exists() and not PATTERN.search(path):
        raise CorpusError(f"{place.absolute()} is missing; give a file, a folder or a pattern")
    if not place.is_dir() or (is_table(place, TABLES) and not saved.splits(place)):
        table = chosen(path, None)[0]
        looked = look(table)
        found = _interactions(looked, guess(looked))
        beside = None if "title" in found.columns else _beside(table, looked, found)
        return Draft("table", None, (path,), looked, found, beside=beside)
    source = "datasets" if saved.splits(place) else _fixed(path) or "table"
    if source in FIXED:
        return Draft(source, path)
    return _folder(source, path)


def _fixed(path: str) -> str | None:
    for source in FIXED:
        try:
            locate(CorpusConfig(source=source, path=path))
            return source
        except CorpusError:
            continue
    return None


def _folder(source: str, path: str) -> Draft:
    tables = listed(path, TABLES)
    if not tables:
        raise CorpusError(
            f"{Path(path).absolute()} holds no table; give a folder with CSV, TSV, JSONL, Parquet "
            f"or Arrow files"
        )
    looks, errors = _readable(tables[:MOST_TABLES])
    if not looks:
        raise errors[0]
    guesses = [guess(one) for one in looks]
    rated = [_fitness(one, found) for one, found in zip(looks, guesses, strict=True)]
    best = rated.index(max(rated))
    found = _interactions(looks[best], guesses[best])
    same = [
        one
        for one in looks
        if one.names == looks[best].names and one.separator == looks[best].separator
    ]
    rest = [(o, g) for o, g in zip(looks, guesses, strict=True) if o not in same]
    catalogues = [_catalogue(one, other, looks[best], found) for one, other in rest]
    catalogue = next(filter(None, catalogues), None)
    all_events = source == "datasets" and len(same) == len(tables)
    names = () if all_events else tuple(_relative(one.table, path) for one in same)
    return Draft(source, path, names, looks[best], found, catalogue)


def _readable(tables: list[Table]) -> tuple[list[Look], list[CorpusError]]:
    """The tables of a folder that can be read, and the errors of the others."""
    looks, errors = [], []
    for table in tables:
        try:
            looks.append(look(table))
        except CorpusError as error:
            errors.append(error)
    return looks, errors


def _fitness(looked: Look, found: Guess) -> tuple[bool, int, bool, int]:
    both = {"user", "item"} <= found.columns.keys()
    named = looked.table.name.lower() in EVENTS_NAMES
    sure = len({"user", "item", "time"} & found.columns.keys()) - len(found.unnamed)
    return both, sure, named, len(looked.rows)


def _interactions(looked: Look, found: Guess) -> Guess:
    """The guess; raises `CorpusError` if there is no user or no item."""
    missing = [role for role in ("user", "item") if role not in found.columns]
    if not missing:
        _check_files(looked, found)
        return found
    names = ", ".join(looked.names[:20])
    lists = f" ({', '.join(looked.lists[:3])} holds lists)" if looked.lists else ""
    raise CorpusError(
        f"{looked.table.path} has no column that looks like the {' or the '.join(missing)}; its "
        f"columns are {names}{lists}; give a table with one event in each row, and name its "
        f"columns user and item, or write corpus.columns yourself (docs/corpus.md)"
    )


def _check_files(looked: Look, found: Guess) -> None:
    """Refuse files of a pattern or folder that are not parts of one table."""
    for file in looked.table.files:
        format = format_of(file)
        header = read_header(file, format=format, separator=looked.separator)
        lacking = set(found.columns.values()) - {*header, *partition(file)}
        if lacking and format != "jsonl":
            raise CorpusError(
                f"{file} has no column {min(lacking)!r}, which another file of {looked.table.path} "
                f"has; give files with the same columns"
            )


def _beside(table: Table, looked: Look, found: Guess) -> Catalogue | None:
    """A table with titles in the folder of a file."""
    folder = table.path.parent
    others = [one for one in listed(str(folder), TABLES) if not {*one.files} & {*table.files}]
    for one in _readable(others[:MOST_TABLES])[0]:
        if catalogue := _catalogue(one, guess(one), looked, found):
            return catalogue
    return None


def _catalogue(one: Look, other: Guess, events: Look, found: Guess) -> Catalogue | None:
    """The columns of a catalogue: the item has values of the interactions, the title words."""
    wanted = _keys(events.texts(found.columns["item"]))
    title = other.columns.get("title") or next(iter(_worded(one)), None)
    known = {
        name: len(wanted & _keys(one.texts(name, len(one.rows)))) / max(1, len(wanted))
        for name in one.names
        if name != title
    }
    item = max(known, key=lambda name: known[name], default=None)
    if title is None or item is None or known[item] < OVERLAP:
        return None
    text = other.columns.get("text")
    return Catalogue(one, {"item": item, "title": title} | ({"text": text} if text else {}))


def _worded(one: Look) -> Sequence[str]:
    return [name for name in one.names if is_text(one.texts(name))]


def _keys(values: Sequence[str]) -> set[str]:
    return {value.removesuffix(".0") for value in values}


def _relative(table: Table, folder: str) -> str:
    return os.path.relpath(table.path, Path(folder).absolute())
