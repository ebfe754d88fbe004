"""The sources of a corpus: which files they have, and which column has which role.

A source is a function ``(corpus) -> Located`` that reads only headers. To add one, write a function
here and add it to `SOURCES`, or set ``corpus.source`` to ``package.module:function``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from minirec.config.choices import SOURCES as CHOICES
from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import saved
from minirec.corpus.files.finding import (
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
from minirec.corpus.files.spec import FileSpec, read_header, stem
from minirec.corpus.files.specs import (
    MAP,
    MAP_BOTH,
    event_columns,
    events_spec,
    items_spec,
    picked,
    untyped,
    weighted,
)
from minirec.corpus.notation import Notation
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
TABLE_EVENTS = {"user": "user", "item": "item", "rating": "rating", "time": "time"}
TABLE_ITEMS = {"item": "item", "title": "title", "text": "text"}
EVENTS_NAMES = ("interactions", "ratings", "events")
SPLIT_NAMES = ("train", "validation", "valid", "test")
WHERE = "set corpus.path, corpus.ratings or corpus.metadata"


@dataclass(frozen=True)
class Located:
    """Files of a corpus.

    Attributes:
        events: specs of the interaction files.
        items: specs of the catalogue files.
        fallback: name of the domain if neither the settings nor the catalogue name it.
        inline: whether the titles are in the interaction files, which are then read twice.
        notes: sentences on what the files lack.
        category: name of the domain from the settings, else None; `locate` sets it.
    """

    events: list[FileSpec]
    items: list[FileSpec]
    fallback: str
    inline: bool = False
    notes: list[str] = field(default_factory=list)
    category: str | None = None


def locate(corpus: CorpusConfig, *, weight: str | None = None) -> Located:
    """Find the files of a source and check their columns.

    `weight` is the column of the catalogue with the weights of items, if any.

    Raises:
        CorpusError: a file is missing, empty or unreadable, or lacks a column.
        ConfigError: a source of the user cannot be imported.
    """
    _check_columns(corpus)
    located: Located = CHOICES.find(corpus.source)(corpus)
    if weight is not None:
        located = replace(located, items=[weighted(spec, weight) for spec in located.items])
    if corpus.category:
        name = corpus.category.replace("_", " ")
        return replace(located, category=name, fallback=name)
    return located


def _check_columns(corpus: CorpusConfig) -> None:
    """Refuse unknown roles, and settings that contradict each other."""
    roles = {*TABLE_EVENTS, *TABLE_ITEMS, "catalogue_item", "order", "event"}
    unknown = sorted(corpus.columns.keys() - roles)
    if unknown:
        raise CorpusError(
            f"corpus.columns has the unknown role {unknown[0]!r}; "
            f"choose from user, item, catalogue_item, rating, event, time, order, title, text"
        )
    if "order" in corpus.columns:
        given = "corpus.columns.time" if "time" in corpus.columns else None
        given = given or ("corpus.start" if corpus.start else "corpus.end" if corpus.end else None)
        if given:
            raise CorpusError(
                f"{given} has no effect with corpus.columns.order, which is for events without "
                f"times; remove one of the two"
            )


def _fixed_columns(corpus: CorpusConfig) -> None:
    """Refuse settings of the columns for a source whose columns are fixed."""
    fixed = ("columns", "events", "decimal_comma", "dates")
    given = next((name for name in fixed if getattr(corpus, name)), None)
    given = "separator" if corpus.separator != "," else given
    if given:
        raise CorpusError(
            f"corpus.{given} has no effect with corpus.source={corpus.source}, whose columns are "
            f"fixed; remove it or set corpus.source=table"
        )


def amazon(corpus: CorpusConfig) -> Located:
    """Amazon Reviews 2023: ratings as *.csv, the catalogue as meta*.jsonl."""
    _fixed_columns(corpus)
    ratings = chosen(corpus.ratings, corpus.path) or [
        table
        for table in _found(corpus, (".csv",))
        # Folders of benchmarks hold other CSVs too; `_fits` selects below.
        if not table.name.lower().startswith("meta")
    ]
    fix = f"{WHERE}, or add corpus.download=true with corpus.category"
    if not ratings:
        raise nothing(corpus.path, "a ratings file *.csv or *.csv.gz", fix=fix)
    metadata = chosen(corpus.metadata, corpus.path) or [
        table for table in listed(corpus.path, JSONL) if table.name.lower().startswith("meta")
    ]
    if not metadata:
        raise nothing(corpus.path, "a catalogue file meta*.jsonl or meta*.jsonl.gz", fix=fix)
    fitting = [table for table in ratings if _fits(table, AMAZON_EVENTS)]
    items = [
        # In JSON lines, titles may begin after the lines that `read_header` reads.
        items_spec(
            file,
            AMAZON_ITEMS,
            extra=("features",),
            required=("item",) if format_of(file) == "jsonl" else ("item", "title"),
        )
        for file in _files(metadata)
    ]
    names = {table.name.replace("_", " ") for table in fitting} - {"ratings"}
    return Located(
        [events_spec(corpus, file, AMAZON_EVENTS) for file in _files(fitting or ratings)],
        items,
        ", ".join(sorted(names)) or "Amazon products",
    )


def movielens(corpus: CorpusConfig) -> Located:
    """MovieLens: ratings.csv and movies.csv."""
    _fixed_columns(corpus)
    ratings = chosen(corpus.ratings, corpus.path) or named(corpus.path, ["ratings"], (".csv",))
    movies = chosen(corpus.metadata, corpus.path) or named(corpus.path, ["movies"], (".csv",))
    if not ratings:
        raise nothing(corpus.path, "ratings.csv", fix=WHERE)
    if not movies:
        raise nothing(corpus.path, "movies.csv", fix=WHERE)
    return Located(
        [events_spec(corpus, file, MOVIELENS_EVENTS) for file in _files(ratings)],
        [items_spec(file, MOVIELENS_ITEMS) for file in _files(movies)],
        "Movies",
    )


def recbole(corpus: CorpusConfig) -> Located:
    """RecBole: *.inter and *.item, tab-separated with typed headers."""
    inter = chosen(corpus.ratings, corpus.path) or _found(corpus, (".inter",))
    item = chosen(corpus.metadata, corpus.path) or listed(corpus.path, (".item",))
    if not inter:
        raise nothing(corpus.path, "an interactions file *.inter", fix=WHERE)
    if not item:
        raise nothing(corpus.path, "a catalogue file *.item", fix=WHERE)
    columns, notes = event_columns(corpus, RECBOLE_EVENTS, _files(inter), typed=True)
    events = [
        events_spec(corpus, file, columns, typed=True, fix=MAP_BOTH) for file in _files(inter)
    ]
    items = []
    for file in _files(item):
        header = untyped(read_header(file, format=format_of(file)))
        title = next((name for name in RECBOLE_TITLES if name in header), "title")
        columns = {"item": "item_id", "title": title} | _of_catalogue(corpus)
        rest = tuple(name for name in header if name not in columns.values())
        required = _required(corpus, file)
        items.append(
            items_spec(
                file,
                columns,
                extra=rest,
                required=required,
                typed=True,
                fix=MAP_BOTH,
                notation=Notation.of(corpus),
            )
        )
    return Located(events, items, _domain(inter), notes=notes)


def table(corpus: CorpusConfig) -> Located:
    """Any Parquet, Arrow, CSV, TSV or JSONL files, with the columns of corpus.columns."""
    metadata = chosen(corpus.metadata, corpus.path)
    # Both chosen, other tables of the folder do not matter, and may be unreadable.
    present = [] if metadata and corpus.ratings else _found(corpus, TABLES)
    return _of_tables(corpus, present, chosen(corpus.ratings, corpus.path), metadata)


def datasets(corpus: CorpusConfig) -> Located:
    """A dataset of Hugging Face, saved by save_to_disk or on the hub, with corpus.columns."""
    path = Path(corpus.path or ".")
    if not path.exists() and saved.HUB_NAME.fullmatch(corpus.path or ""):
        fetched = saved.from_hub(str(corpus.path))
        name = Path(str(corpus.path).partition(":")[0])
        splits = {split: Table(name / split, files) for split, files in fetched.items() if files}
        ratings, metadata = (
            _splits_named(names, splits) for names in (corpus.ratings, corpus.metadata)
        )
        return _of_tables(corpus, list(splits.values()), ratings, metadata)
    if corpus.path and not saved.splits(path):
        what = "no folder that save_to_disk wrote" if path.exists() else "missing"
        raise CorpusError(
            f"corpus.path {path} is {what}; give such a folder, or owner/name of a dataset of the "
            f"hub, or set corpus.source=table for a folder of plain files"
        )
    return table(corpus)


def _splits_named(names: str | list[str] | None, splits: dict[str, Table]) -> list[Table]:
    """The splits, or files of this machine, that a setting names."""
    given = [names] if isinstance(names, str) else names or []
    try:
        return [
            table
            for name in given
            for table in ([splits[name]] if name in splits else chosen(name, None))
        ]
    except CorpusError as error:
        raise CorpusError(f"{error} (the dataset has the splits {', '.join(splits)})") from None


def _of_tables(
    corpus: CorpusConfig, present: list[Table], ratings: list[Table], metadata: list[Table]
) -> Located:
    """Columns and files of tables that `corpus.columns` describes.

    Args:
        present: the tables at `corpus.path`. A catalogue is found among them by its name; the
            others hold the interactions.
        ratings, metadata: the tables that the settings name, which take precedence.
    """
    for name in ("items", "catalogue", "metadata", "meta"):
        metadata = metadata or [table for table in present if table.name.lower() == name]
    several = False
    if not ratings:
        taken = set(_files(metadata))
        found = [table for table in present if not taken.issuperset(table.files)]
        ratings = [table for table in found if table.name.lower() in EVENTS_NAMES] or found
        several = len(ratings) > 1
    if not ratings:
        raise nothing(corpus.path, "an interactions file (Parquet, Arrow, CSV or JSONL)", fix=WHERE)
    if "catalogue_item" in corpus.columns and not metadata:
        raise CorpusError(
            "corpus.columns.catalogue_item has no effect without a catalogue; set corpus.metadata "
            "to its file or leave it out"
        )
    columns, notes = event_columns(corpus, TABLE_EVENTS, _files(ratings))
    fix = MAP_BOTH if metadata else MAP
    if several:
        names = ", ".join(table.path.name for table in ratings[:5])
        fix = (
            f"the folder holds {len(ratings)} tables ({names}): name the one with the "
            f"interactions in corpus.ratings and the catalogue in corpus.metadata, or {fix}"
        )
    events = [events_spec(corpus, file, columns, fix=fix) for file in _files(ratings)]
    item_columns = TABLE_ITEMS | _of_catalogue(corpus)
    fix = MAP_BOTH if metadata else f"{MAP}, or corpus.metadata to a file with the catalogue"
    items = [
        items_spec(
            file,
            item_columns,
            required=_required(corpus, file),
            fix=fix,
            notation=Notation.of(corpus),
        )
        for file in _files(metadata or ratings)
    ]
    if not metadata:
        pairs = zip(items, events, strict=True)
        items = [
            replace(item, as_events=event.columns, partition=item.partition | event.partition)
            for item, event in pairs
        ]
    return Located(events, items, _domain(ratings), inline=not metadata, notes=notes)


def _found(corpus: CorpusConfig, endings: Collection[str]) -> list[Table]:
    """Tables of the folder that may hold interactions: not those that are appended."""
    later = [*corpus.appended, *filter(None, corpus.appended_metadata)]
    paths = {table.path for file in later for table in chosen(file, corpus.path, missing_ok=True)}
    return [table for table in listed(corpus.path, endings) if table.path not in paths]


def _files(tables: list[Table]) -> list[Path]:
    return [file for table in tables for file in table.files]


def _fits(table: Table, columns: dict[str, str]) -> bool:
    try:
        headers = [read_header(file, format=format_of(file)) for file in table.files]
    except CorpusError:
        return False
    return all(set(columns.values()) <= set(header) for header in headers)


def _of_catalogue(corpus: CorpusConfig) -> dict[str, str]:
    """The columns of the catalogue in the settings."""
    columns = picked(corpus.columns, TABLE_ITEMS)
    if "catalogue_item" in corpus.columns:
        columns["item"] = corpus.columns["catalogue_item"]
    return columns


def _required(corpus: CorpusConfig, file: Path) -> list[str]:
    """Roles that a catalogue must have; JSON lines may lack the text that the settings name."""
    text = "text" in corpus.columns and format_of(file) != "jsonl"
    return ["item", "title", "text"] if text else ["item", "title"]


def _domain(tables: list[Table]) -> str:
    """The name of the only table if it is specific, else that of a folder above."""
    first = tables[0].path
    names = [first.name] if len(tables) == 1 else []
    names += [folder.name for folder in first.parents]
    for name in names:
        name = stem(name) if ending(Path(name)) in FORMATS else name
        general = name.lower() in (*EVENTS_NAMES, *SPLIT_NAMES) or PART.match(name) or "=" in name
        if name and not general:
            return name.replace("_", " ")
    return "items"


SOURCES: dict[str, Callable[[CorpusConfig], Located]] = {
    "amazon": amazon,
    "movielens": movielens,
    "recbole": recbole,
    "table": table,
    "datasets": datasets,
}
"""The values of ``corpus.source``; `minirec.config.choices` reads this table."""
