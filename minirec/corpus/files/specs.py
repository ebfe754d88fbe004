"""Makes the `FileSpec` of a file from the columns of its source, and checks the file's header."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.finding import ending, format_of, partition
from minirec.corpus.files.spec import FileSpec, read_header
from minirec.corpus.notation import PLAIN, Notation
from minirec.errors import CorpusError

FIX = "fix the header"
MAP = "set corpus.columns to the names in the file"
MAP_BOTH = f"{MAP} (item: of the interactions; catalogue_item: of the catalogue, if it differs)"
BY_FILE = "file"
"""Value of ``corpus.columns.order`` for events without times: the order of the rows counts."""


@dataclass(frozen=True)
class Header:
    """The columns of a file.

    Attributes:
        written: as in the file.
        names: `written` without types (`untyped`).
        partition: column -> value of columns that exist only in the names of its folders.
    """

    written: tuple[str, ...]
    names: tuple[str, ...]
    partition: dict[str, str] = field(default_factory=dict)

    @property
    def all(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (*self.names, *self.partition)


def event_columns(
    corpus: CorpusConfig, columns: dict[str, str], files: list[Path], *, typed: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Columns of events by role, and notes on what the files lack.

    An order in the settings replaces the time. Ratings are left out if no file has them and the
    settings name none. The settings may add the type of an event.

    Args:
        columns: the source's columns by role; ``corpus.columns`` overrides them.
        files: the interaction files.
        typed: whether headers carry types (`untyped`).

    Raises:
        CorpusError: ``corpus.min_rating`` or ``corpus.choices`` is set, but there are no ratings,
            or not two of them.
    """
    columns = columns | picked(corpus.columns, {*columns, "event"})
    order = corpus.columns.get("order")
    if order is not None:
        del columns["time"]
        columns |= {} if order == BY_FILE else {"order": order}
    separator = corpus.separator
    known = {name for file in files for name in _header(file, typed, separator).all}
    if columns["rating"] in known or "rating" in corpus.columns:
        return columns, []
    del columns["rating"]
    uses = set(map(type, corpus.events.values()))
    if corpus.min_rating is not None and float not in uses:
        raise CorpusError(
            f"corpus.min_rating={corpus.min_rating:g} needs ratings, and no interactions file has "
            f"a rating column; name it in corpus.columns (rating: COLUMN), or leave min_rating out"
        )
    kept = not corpus.events or "keep" in corpus.events.values()
    values = {use for use in corpus.events.values() if isinstance(use, float)}
    if corpus.choices and len(values | ({corpus.rating_range[1]} if kept else set())) < 2:
        raise CorpusError(
            f"corpus.choices={corpus.choices} compares ratings, but no interactions file has a "
            f"rating column and all events count alike; name the column in corpus.columns (rating: "
            f"COLUMN), give types of events different ratings in corpus.events, or set "
            f"corpus.choices=0"
        )
    if not kept:
        return columns, []
    which = "each event that corpus.events keeps" if corpus.events else "each event"
    return columns, [f"there is no rating column: {which} counts as {corpus.rating_range[1]:g}"]


def events_spec(
    corpus: CorpusConfig,
    file: Path,
    columns: dict[str, str],
    *,
    typed: bool = False,
    fix: str = FIX,
) -> FileSpec:
    """How to read a file of interactions.

    Args:
        columns: by role: user, item, rating, event, and time or order.
        typed: whether the header carries types (`untyped`); quotes then have no meaning.
        fix: what the user can do about a missing column.

    Raises:
        CorpusError: the file lacks a column, or there are types of events and no column with them,
            or the reverse.
    """
    _check_events(corpus, columns)
    notation = Notation.of(corpus)
    header = _header(file, typed, notation.separator)
    if fix != FIX and "time" in columns and columns["time"] not in header.all:
        fix += "; where events have no times, set corpus.columns.order"
    _require(file, header, list(columns.values()), fix=fix)
    if corpus.columns.get("order") == BY_FILE and BY_FILE in header.names:
        raise CorpusError(
            f"corpus.columns.order={BY_FILE} is the order of the rows, and {file} has a column of "
            f"this name; rename the column"
        )
    spec = _spec("events", file, header, columns, typed, notation)
    return replace(spec, rating_range=corpus.rating_range, event_types=corpus.events)


def _check_events(corpus: CorpusConfig, columns: dict[str, str]) -> None:
    if corpus.events and "event" not in columns:
        raise CorpusError(
            "corpus.events needs the column with the types of the events; name it in "
            "corpus.columns (event: COLUMN)"
        )
    if "event" in columns and not corpus.events:
        raise CorpusError(
            f"the column {columns['event']!r} holds the types of the events, but corpus.events "
            f"does not say what becomes of each type; set it, e.g. "
            f"corpus.events={{view: drop, purchase: keep}}"
        )


def items_spec(
    file: Path,
    columns: dict[str, str],
    *,
    extra: tuple[str, ...] = (),
    required: Collection[str] = ("item", "title"),
    typed: bool = False,
    fix: str = FIX,
    notation: Notation = PLAIN,
) -> FileSpec:
    """How to read a catalogue file.

    Args:
        columns: by role: item, title, text, category.
        extra: columns that are appended to the text of an item.
        required: roles that the file must have.
        typed, fix: as in `events_spec`.
        notation: of the settings.

    Raises:
        CorpusError: the file lacks a required column.
    """
    header = _header(file, typed, notation.separator)
    _require(file, header, [columns[role] for role in required], fix=fix)
    if format_of(file) != "jsonl":
        columns = {role: name for role, name in columns.items() if name in header.all}
        extra = tuple(name for name in extra if name in header.names)
    return replace(_spec("items", file, header, columns, typed, notation), extra=extra)


def weighted(spec: FileSpec, column: str) -> FileSpec:
    """The spec of a catalogue file that also reads a column of weights.

    The column is then no part of an item's text. Raises `CorpusError` if the file lacks it.
    """
    header = spec.header or read_header(spec.path, format=spec.format)
    fix = "set reward.item_weight to one of them, or add the column"
    _require(Path(spec.path), Header(header, header), [column], fix=fix)
    extra = tuple(name for name in spec.extra if name != column)
    return replace(spec, columns=spec.columns | {"weight": column}, extra=extra)


def _header(file: Path, typed: bool, separator: str) -> Header:
    written = read_header(file, format=format_of(file), separator=separator)
    names = untyped(written) if typed else written
    folders = {name: value for name, value in partition(file).items() if name not in names}
    return Header(written, names, folders)


def _spec(
    kind: Literal["events", "items"],
    file: Path,
    header: Header,
    columns: dict[str, str],
    typed: bool,
    notation: Notation,
) -> FileSpec:
    format = format_of(file)
    return FileSpec(
        str(file),
        kind,
        format,
        header.names if format in ("csv", "tsv") else (),
        columns,
        quoted=not typed,
        partition=picked(header.partition, columns.values()),
        notation=notation,
    )


def untyped(header: tuple[str, ...]) -> tuple[str, ...]:
    """A RecBole header without its types: ``user_id:token`` -> ``user_id``."""
    return tuple(name.split(":")[0] for name in header)


def picked(values: dict[str, str], keys: Collection[str]) -> dict[str, str]:
    """The entries with these keys."""
    return {key: value for key, value in values.items() if key in keys}


def _require(file: Path, header: Header, needed: list[str], *, fix: str) -> None:
    """Refuse a file that lacks a needed column."""
    missing = next((name for name in needed if name not in header.all), None)
    if missing is None:
        return
    written = header.written
    format = format_of(file)
    others = [s for s in (",", "\t", ";", "|", "::") if len(written) == 1 and s in written[0]]
    fields = format in ("csv", "tsv")
    if format == "csv" and others and len(others[0]) == 1:
        fix = f"its fields seem to be separated by {others[0]!r}; set corpus.separator to it"
    elif fields and others:
        wanted = "," if format == "csv" else "\t"
        fix = (
            f"its fields seem to be separated by {others[0]!r}; save it with {wanted!r}, the "
            f"separator of {ending(file)} files"
        )
    elif fields and any(name.replace(".", "", 1).isdecimal() for name in written):
        fix = f"its first line seems to hold values; add a line with the names of columns, or {fix}"
    found = ", ".join(map(repr, (*written[:20], *header.partition)))
    raise CorpusError(f"{file} has no column {missing!r}; found {found}; {fix}")
