"""Makes the `FileSpec` of a file from the columns of its source, and checks the file's header."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import FileSpec, read_header
from minirec.corpus.finding import ending, format_of
from minirec.errors import CorpusError

FIX = "fix the header"
MAP = "set corpus.columns to the names in the file"
MAP_BOTH = f"{MAP} (item: of the interactions; catalogue_item: of the catalogue, if it differs)"
BY_FILE = "file"
"""Value of ``corpus.columns.order`` for events without times: the order of the rows counts."""


def event_columns(
    corpus: CorpusConfig, columns: dict[str, str], files: list[Path], *, typed: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Columns of events by role, and notes on what the files lack.

    An order in the settings replaces the time. Ratings are left out if no file has them and the
    settings name none.

    Args:
        columns: the source's columns by role; ``corpus.columns`` overrides them.
        files: the interaction files.
        typed: whether headers carry types (`untyped`).

    Raises:
        CorpusError: ``corpus.min_rating`` is set, but there are no ratings.
    """
    columns = columns | picked(corpus.columns, columns)
    order = corpus.columns.get("order")
    if order is not None:
        del columns["time"]
        columns |= {} if order == BY_FILE else {"order": order}
    known = {name for file in files for name in _header(file, typed)[1]}
    if columns["rating"] in known or "rating" in corpus.columns:
        return columns, []
    del columns["rating"]
    if corpus.min_rating is not None:
        raise CorpusError(
            f"corpus.min_rating={corpus.min_rating:g} needs ratings, and no interactions file has "
            f"a rating column; name it in corpus.columns (rating: COLUMN), or leave min_rating out"
        )
    return columns, [f"there is no rating column: each event counts as {corpus.rating_range[1]:g}"]


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
        columns: by role: user, item, rating, and time or order.
        typed: whether the header carries types (`untyped`); quotes then have no meaning.
        fix: what the user can do about a missing column.

    Raises:
        CorpusError: the file lacks a column.
    """
    header, names = _header(file, typed)
    if fix != FIX and "time" in columns and columns["time"] not in names:
        fix += "; where events have no times, set corpus.columns.order"
    _require(file, header, names, list(columns.values()), fix=fix)
    if corpus.columns.get("order") == BY_FILE and BY_FILE in names:
        raise CorpusError(
            f"corpus.columns.order={BY_FILE} is the order of the rows, and {file} has a column of "
            f"this name; rename the column"
        )
    spec = _spec("events", file, names, columns, typed)
    return replace(spec, rating_range=corpus.rating_range)


def items_spec(
    file: Path,
    columns: dict[str, str],
    *,
    extra: tuple[str, ...] = (),
    required: Collection[str] = ("item", "title"),
    typed: bool = False,
    fix: str = FIX,
) -> FileSpec:
    """How to read a catalogue file.

    Args:
        columns: by role: item, title, text, category.
        extra: columns that are appended to the text of an item.
        required: roles that the file must have.
        typed, fix: as in `events_spec`.

    Raises:
        CorpusError: the file lacks a required column.
    """
    header, names = _header(file, typed)
    _require(file, header, names, [columns[role] for role in required], fix=fix)
    if format_of(file) != "jsonl":
        columns = {role: name for role, name in columns.items() if name in names}
        extra = tuple(name for name in extra if name in names)
    return replace(_spec("items", file, names, columns, typed), extra=extra)


def weighted(spec: FileSpec, column: str) -> FileSpec:
    """The spec of a catalogue file that also reads a column of weights.

    The column is then no part of an item's text. Raises `CorpusError` if the file lacks it.
    """
    header = spec.header or read_header(spec.path, format=spec.format)
    fix = "set reward.item_weight to one of them, or add the column"
    _require(Path(spec.path), header, header, [column], fix=fix)
    extra = tuple(name for name in spec.extra if name != column)
    return replace(spec, columns=spec.columns | {"weight": column}, extra=extra)


def _header(file: Path, typed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The header as written, and without its types."""
    header = read_header(file, format=format_of(file))
    return header, untyped(header) if typed else header


def _spec(
    kind: Literal["events", "items"],
    file: Path,
    names: tuple[str, ...],
    columns: dict[str, str],
    typed: bool,
) -> FileSpec:
    format = format_of(file)
    header = () if format in ("jsonl", "parquet") else names
    return FileSpec(str(file), kind, format, header, columns, quoted=not typed)


def untyped(header: tuple[str, ...]) -> tuple[str, ...]:
    """A RecBole header without its types: ``user_id:token`` -> ``user_id``."""
    return tuple(name.split(":")[0] for name in header)


def picked(columns: dict[str, str], roles: Collection[str]) -> dict[str, str]:
    """The columns with these roles."""
    return {role: name for role, name in columns.items() if role in roles}


def _require(
    file: Path, header: tuple[str, ...], names: tuple[str, ...], needed: list[str], *, fix: str
) -> None:
    """Refuse a file that lacks a needed column; `names` is `header` without types."""
    missing = next((name for name in needed if name not in names), None)
    if missing is None:
        return
    separator = {"csv": ",", "tsv": "\t"}.get(format_of(file))
    others = [s for s in (",", "\t", ";", "|", "::") if len(header) == 1 and s in header[0]]
    if separator and others:
        fix = (
            f"its fields seem to be separated by {others[0]!r}; save it with {separator!r}, the "
            f"separator of {ending(file)} files"
        )
    elif separator and any(name.replace(".", "", 1).isdecimal() for name in header):
        fix = f"its first line seems to hold values; add a line with the names of columns, or {fix}"
    elif any(part.startswith(f"{missing}=") for part in file.parts):
        fix = "it is only in the name of its folder; write it into the files too"
    found = ", ".join(map(repr, header[:20]))
    raise CorpusError(f"{file} has no column {missing!r}; found {found}; {fix}")
