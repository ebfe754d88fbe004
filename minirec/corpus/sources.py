"""The file sources: which files they are, and which column plays which role.

`locate` turns ``corpus.source`` and its paths into `FileSpec`s and the name of the domain; it
reads only headers. Every source ends in the same two kinds of rows, events and items.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from minirec.config.run import CorpusConfig
from minirec.corpus.files import FileSpec, read_header, stem
from minirec.corpus.finding import (
    FORMATS,
    JSONL,
    PART,
    TABLES,
    Table,
    chosen,
    ending,
    format_of,
    listed,
    named,
    nothing,
)
from minirec.errors import CorpusError

AMAZON_EVENTS = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}
AMAZON_ITEMS = {
    "item": "parent_asin",
    "title": "title",
    "text": "description",
    "category": "main_category",
}
MOVIELENS_EVENTS = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
MOVIELENS_ITEMS = {"item": "movieId", "title": "title", "text": "genres"}
RECBOLE_EVENTS = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
RECBOLE_TITLES = ("title", "movie_title", "item_name", "name", "book_title", "product_title")
FIX = "fix the header"
EVENTS_NAMES = ("interactions", "ratings", "events")
MAP = "set corpus.columns to the names in the file"
BY_FILE = "file"
"""As ``corpus.columns.order``: events have no times, the order of the rows counts."""
MAP_BOTH = f"{MAP} (item: of the interactions; catalogue_item: of the catalogue, if it differs)"
TABLE_EVENTS = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
TABLE_ITEMS = {"item": "item", "title": "title", "text": "text"}


@dataclass(frozen=True)
class Located:
    """Files of a corpus.

    Attributes:
        events: specs of the interaction files.
        items: specs of the catalogue files.
        inline: the titles stand in the interaction files, which are read a second time for
            them; rows rejected in that second reading are not counted twice.
        category: name of the domain if the settings tell it, else None.
        fallback: name of the domain if the catalogue does not tell it either.
        notes: sentences on what the files lack.
    """

    events: list[FileSpec]
    items: list[FileSpec]
    inline: bool
    category: str | None
    fallback: str
    notes: list[str] = field(default_factory=list)


def locate(corpus: CorpusConfig) -> Located:
    """Find the files of a file source and check their columns.

    Raises:
        CorpusError: a file is missing, empty or unreadable, or lacks a column; the message
            lists the columns found.
    """
    _check_columns(corpus)
    finders = {"amazon": _amazon, "movielens": _movielens, "recbole": _recbole, "table": _table}
    located = finders[corpus.source](corpus)
    if corpus.category:
        name = corpus.category.replace("_", " ")
        return replace(located, category=name, fallback=name)
    return located


def _check_columns(corpus: CorpusConfig) -> None:
    """Refuse a mapping of columns that would have no effect."""
    roles = {*TABLE_EVENTS, *TABLE_ITEMS, "catalogue_item", "order"}
    unknown = sorted(corpus.columns.keys() - roles)
    if unknown:
        raise CorpusError(
            f"corpus.columns has the unknown role {unknown[0]!r}; "
            f"choose from user, item, catalogue_item, rating, time, order, title, text"
        )
    if "order" in corpus.columns:
        given = "corpus.columns.time" if "time" in corpus.columns else None
        given = given or ("corpus.start" if corpus.start else "corpus.end" if corpus.end else None)
        if given:
            raise CorpusError(
                f"{given} has no effect with corpus.columns.order, which is for events without "
                f"times; remove one of the two"
            )
    if corpus.columns and corpus.source in ("amazon", "movielens"):
        raise CorpusError(
            f"corpus.columns has no effect with corpus.source={corpus.source}, whose columns are "
            f"fixed; remove it or set corpus.source=table"
        )


def _amazon(corpus: CorpusConfig) -> Located:
    ratings = chosen(corpus.ratings, corpus.path) or [
        table
        for table in listed(corpus.path, (".csv",))
        # Benchmark folders hold other CSVs too: one that can be read is enough.
        if not table.name.lower().startswith("meta")
    ]
    if not ratings:
        raise _nothing(corpus, "a ratings file *.csv or *.csv.gz")
    metadata = chosen(corpus.metadata, corpus.path) or [
        table for table in listed(corpus.path, JSONL) if table.name.lower().startswith("meta")
    ]
    if not metadata:
        raise _nothing(corpus, "a catalogue file meta*.jsonl or meta*.jsonl.gz")
    fitting = [table for table in ratings if _fits(table, AMAZON_EVENTS)]
    events = [_events_spec(corpus, file, AMAZON_EVENTS) for file in _files(fitting or ratings)]
    items = [
        # Metadata may hold titles further down than its first lines.
        _items_spec(
            file,
            AMAZON_ITEMS,
            extra=("features",),
            required=("item",) if format_of(file) == "jsonl" else ("item", "title"),
        )
        for file in _files(metadata)
    ]
    names = {table.name.replace("_", " ") for table in fitting} - {"ratings"}
    return Located(events, items, False, None, ", ".join(sorted(names)) or "Amazon products")


def _files(tables: list[Table]) -> list[Path]:
    return [file for table in tables for file in table.files]


def _fits(table: Table, columns: dict[str, str]) -> bool:
    try:
        headers = [read_header(file, format=format_of(file)) for file in table.files]
    except CorpusError:
        return False
    return all(set(columns.values()) <= set(header) for header in headers)


def _movielens(corpus: CorpusConfig) -> Located:
    ratings = chosen(corpus.ratings, corpus.path) or named(corpus.path, ["ratings"], (".csv",))
    movies = chosen(corpus.metadata, corpus.path) or named(corpus.path, ["movies"], (".csv",))
    if not ratings:
        raise _nothing(corpus, "ratings.csv")
    if not movies:
        raise _nothing(corpus, "movies.csv")
    events = [_events_spec(corpus, file, MOVIELENS_EVENTS) for file in _files(ratings)]
    items = [_items_spec(file, MOVIELENS_ITEMS) for file in _files(movies)]
    return Located(events, items, False, None, "Movies")


def _recbole(corpus: CorpusConfig) -> Located:
    inter = chosen(corpus.ratings, corpus.path) or listed(corpus.path, (".inter",))
    item = chosen(corpus.metadata, corpus.path) or listed(corpus.path, (".item",))
    if not inter:
        raise _nothing(corpus, "an interactions file *.inter")
    if not item:
        raise _nothing(corpus, "a catalogue file *.item")
    event_columns = _ordered(corpus, RECBOLE_EVENTS | _known(corpus.columns, RECBOLE_EVENTS))
    event_columns = _rated(corpus, _files(inter), event_columns, typed=True)
    events = [
        _events_spec(corpus, file, event_columns, typed=True, fix=MAP_BOTH)
        for file in _files(inter)
    ]
    items = []
    for file in _files(item):
        header = _untyped(read_header(file, format=format_of(file)))
        title = next((name for name in RECBOLE_TITLES if name in header), "title")
        columns = {"item": "item_id", "title": title} | _of_catalogue(corpus)
        rest = tuple(name for name in header if name not in columns.values())
        items.append(
            _items_spec(
                file,
                columns,
                extra=rest,
                required=_required(corpus, file),
                typed=True,
                fix=MAP_BOTH,
            )
        )
    notes = _unrated(corpus, event_columns)
    return Located(events, items, False, None, _domain(inter), notes)


def _table(corpus: CorpusConfig) -> Located:
    metadata = chosen(corpus.metadata, corpus.path)
    for name in ("items", "catalogue", "metadata", "meta"):
        metadata = metadata or named(corpus.path, [name], TABLES)
    ratings = chosen(corpus.ratings, corpus.path)
    several = False
    if not ratings:
        taken = [table.path for table in metadata]
        found = [table for table in listed(corpus.path, TABLES) if table.path not in taken]
        ratings = [table for table in found if table.name.lower() in EVENTS_NAMES] or found
        several = len(ratings) > 1
    if not ratings:
        raise _nothing(corpus, "an interactions file (Parquet, CSV or JSONL)")
    if "catalogue_item" in corpus.columns and not metadata:
        raise CorpusError(
            "corpus.columns.catalogue_item has no effect without a catalogue; set corpus.metadata "
            "to its file or leave it out"
        )
    columns = _ordered(corpus, TABLE_EVENTS | _known(corpus.columns, TABLE_EVENTS))
    columns = _rated(corpus, _files(ratings), columns)
    fix = MAP_BOTH if metadata else MAP
    if several:
        names = ", ".join(table.path.name for table in ratings[:5])
        fix = (
            f"the folder holds {len(ratings)} tables ({names}): name the one with the "
            f"interactions in corpus.ratings and the catalogue in corpus.metadata, or {fix}"
        )
    events = [_events_spec(corpus, file, columns, fix=fix) for file in _files(ratings)]
    item_columns = TABLE_ITEMS | _of_catalogue(corpus)
    fix = MAP_BOTH if metadata else f"{MAP}, or corpus.metadata to a file with the catalogue"
    items = [
        _items_spec(file, item_columns, required=_required(corpus, file), fix=fix)
        for file in _files(metadata or ratings)
    ]
    if not metadata:
        pairs = zip(items, events, strict=True)
        items = [replace(item, as_events=event.columns) for item, event in pairs]
    notes = _unrated(corpus, columns)
    return Located(events, items, not metadata, None, _domain(ratings), notes)


def _of_catalogue(corpus: CorpusConfig) -> dict[str, str]:
    """The columns of the catalogue that the settings name."""
    columns = _known(corpus.columns, TABLE_ITEMS)
    if "catalogue_item" in corpus.columns:
        columns["item"] = corpus.columns["catalogue_item"]
    return columns


def _required(corpus: CorpusConfig, file: Path) -> list[str]:
    """Roles of a catalogue that must be there: those that are named too, but keys of JSON lines."""
    named_too = ["text"] if "text" in corpus.columns and format_of(file) != "jsonl" else []
    return ["item", "title", *named_too]


def _domain(tables: list[Table]) -> str:
    """The name of the only table if it says something, else that of a folder above."""
    first = tables[0].path
    names = [first.name] if len(tables) == 1 else []
    names += [folder.name for folder in first.parents]
    for name in names:
        name = stem(name) if ending(Path(name)) in FORMATS else name
        if name and name.lower() not in EVENTS_NAMES and not PART.match(name) and "=" not in name:
            return name.replace("_", " ")
    return "items"


def _ordered(corpus: CorpusConfig, columns: dict[str, str]) -> dict[str, str]:
    """The columns of events, with that of their order in place of the time where it is set."""
    order = corpus.columns.get("order")
    if order is None:
        return columns
    rest = {role: name for role, name in columns.items() if role != "time"}
    return rest if order == BY_FILE else rest | {"order": order}


def _rated(
    corpus: CorpusConfig, files: list[Path], columns: dict[str, str], *, typed: bool = False
) -> dict[str, str]:
    """The columns of events without that of the rating, where no file has one and none is asked."""
    headers = [read_header(file, format=format_of(file)) for file in files]
    known = {name for header in headers for name in (_untyped(header) if typed else header)}
    if columns["rating"] in known or "rating" in corpus.columns:
        return columns
    return {role: name for role, name in columns.items() if role != "rating"}


def _unrated(corpus: CorpusConfig, columns: dict[str, str]) -> list[str]:
    """A note where events have no ratings.

    Raises:
        CorpusError: `corpus.min_rating` asks for them.
    """
    if "rating" in columns:
        return []
    if corpus.min_rating is not None:
        raise CorpusError(
            f"corpus.min_rating={corpus.min_rating:g} needs ratings, and no interactions file has "
            f"a rating column; name it in corpus.columns (rating: COLUMN), or leave min_rating out"
        )
    return [f"there is no rating column: each event counts as {corpus.rating_range[1]:g}"]


def _events_spec(
    corpus: CorpusConfig,
    file: Path,
    columns: dict[str, str],
    *,
    typed: bool = False,
    fix: str = FIX,
) -> FileSpec:
    format = format_of(file)
    header = read_header(file, format=format)
    names = _untyped(header) if typed else header
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


def _items_spec(
    file: Path,
    columns: dict[str, str],
    *,
    extra: tuple[str, ...] = (),
    required: Collection[str] = ("item", "title"),
    typed: bool = False,
    fix: str = FIX,
) -> FileSpec:
    format = format_of(file)
    header = read_header(file, format=format)
    names = _untyped(header) if typed else header
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
        fix = "it stands only in the name of its folder; write it into the files too"
    found = ", ".join(map(repr, header[:20]))
    raise CorpusError(f"{file} has no column {missing!r}; found {found}; {fix}")


def _untyped(header: tuple[str, ...]) -> tuple[str, ...]:
    """RecBole headers carry types: ``user_id:token`` -> ``user_id``."""
    return tuple(name.split(":")[0] for name in header)


def _known(columns: dict[str, str], roles: dict[str, str]) -> dict[str, str]:
    return {role: name for role, name in columns.items() if role in roles}


def _nothing(corpus: CorpusConfig, wanted: str) -> CorpusError:
    fix = "set corpus.path, corpus.ratings or corpus.metadata"
    if corpus.source == "amazon":
        fix += ", or add corpus.download=true with corpus.category"
    return nothing(corpus.path, wanted, fix=fix)
