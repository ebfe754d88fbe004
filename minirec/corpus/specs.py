"""From the columns of a source to a `FileSpec`, with a check of the file's header."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import FileSpec, read_header
from minirec.corpus.finding import ending, format_of
from minirec.errors import CorpusError

FIX = "fix the header"
MAP = "set corpus.columns to the names in the file"
MAP_BOTH = f"{MAP} (item: of the interactions; catalogue_item: of the catalogue, if it differs)"
BY_FILE = "file"
"""As ``corpus.columns.order``: events have no times, the order of the rows counts."""


def event_columns(
    corpus: CorpusConfig, columns: dict[str, str], files: list[Path], *, typed: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Columns of events by role, and notes on what the files lack.

    The order takes the place of the time where the settings name one. Ratings are left out where
    no file has them and the settings name none.

    Args:
        corpus: settings; ``corpus.columns`` takes the place of `columns`.
        columns: the source's own columns by role.
        files: the interaction files.
        typed: whether headers carry types (`untyped`).

    Raises:
        CorpusError: there are no ratings, and ``corpus.min_rating`` needs them.
    """
    columns = columns | picked(corpus.columns, columns)
    order = corpus.columns.get("order")
    if order is not None:
        del columns["time"]
        columns |= {} if order == BY_FILE else {"order": order}
    headers = [read_header(file, format=format_of(file)) for file in files]
    known = {name for header in headers for name in (untyped(header) if typed else header)}
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
        corpus: settings.
        file: the file; its header is read.
        columns: by role: user, item, rating, and time or order.
        typed: whether the header carries types (`untyped`); then quotes mean nothing.
        fix: what the user can do about a missing column.

    Raises:
        CorpusError: the file lacks a column.
    """
    format = format_of(file)
    header = read_header(file, format=format)
    names = untyped(header) if typed else header
    if fix != FIX and "time" in columns and columns["time"] not in names:
        fix += "; where events have no times, set corpus.columns.order"
    _require(file, header, names, list(columns.values()), fix=fix)
    if corpus.columns.get("order") == BY_FILE and BY_FILE in names:
        raise CorpusError(
            f"corpus.columns.order={BY_FILE} is the order of the rows, and {file} has a column of "
            f"this name; rename the column"
        )
    return FileSpec(
        path=str(file),
        kind="events",
        format=format,
        header=() if format in ("jsonl", "parquet") else names,
        quoted=not typed,
        columns=columns,
        rating_range=corpus.rating_range,
    )


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
        file: the file; its header is read.
        columns: by role: item, title, text, category.
        extra: columns that are appended to the text of an item.
        required: roles that the file must have.
        typed: whether the header carries types (`untyped`); then quotes mean nothing.
        fix: what the user can do about a missing column.

    Raises:
        CorpusError: the file lacks a required column.
    """
    format = format_of(file)
    header = read_header(file, format=format)
    names = untyped(header) if typed else header
    _require(file, header, names, [columns[role] for role in required], fix=fix)
    if format != "jsonl":
        columns = {role: name for role, name in columns.items() if name in names}
        extra = tuple(name for name in extra if name in names)
    return FileSpec(
        path=str(file),
        kind="items",
        format=format,
        header=() if format in ("jsonl", "parquet") else names,
        quoted=not typed,
        columns=columns,
        extra=extra,
    )


def untyped(header: tuple[str, ...]) -> tuple[str, ...]:
    """RecBole headers carry types: ``user_id:token`` -> ``user_id``."""
    return tuple(name.split(":")[0] for name in header)


def picked(columns: dict[str, str], roles: Collection[str]) -> dict[str, str]:
    """The columns of these roles."""
    return {role: name for role, name in columns.items() if role in roles}


def _require(
    file: Path, header: tuple[str, ...], names: tuple[str, ...], needed: list[str], *, fix: str
) -> None:
    """Refuse a file without a column; `names` are those of `header` without their types."""
    missing = next((name for name in needed if name not in names), None)
    if missing is None:
        return
    separator = {"csv": ",", "tsv": "\t"}.get(format_of(file))
    others = [s for s in (",", "\t", ";", "|", "::") if len(header) == 1 and s in header[0]]
    if separator and others:
        fix = (
            f"its fields seem to be separated by {others[0]!r}, and those of {ending(file)} files "
            f"are by {separator!r}; save it so"
        )
    elif separator and any(name.replace(".", "", 1).isdecimal() for name in header):
        fix = f"its first line seems to hold values; add a line with the names of columns, or {fix}"
    elif any(part.startswith(f"{missing}=") for part in file.parts):
        fix = "it is only in the name of its folder; write it into the files too"
    found = ", ".join(map(repr, header[:20]))
    raise CorpusError(f"{file} has no column {missing!r}; found {found}; {fix}")
