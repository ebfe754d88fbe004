"""The file sources: which files they are, and which column plays which role.

`locate` turns ``corpus.source`` and its paths into `FileSpec`s and the name of the domain; it
reads only headers. Every source ends in the same two kinds of rows, events and items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minirec.config import CorpusConfig
from minirec.corpus.files import FileSpec, Format, read_header, stem
from minirec.errors import CorpusError

EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".inter": "tsv",
    ".item": "tsv",
}
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
MEND = "mend the header"
MAP = "set corpus.columns to the names in the file"
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
    """

    events: list[FileSpec]
    items: list[FileSpec]
    inline: bool
    category: str | None
    fallback: str


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
        return Located(located.events, located.items, located.inline, name, name)
    return located


def _check_columns(corpus: CorpusConfig) -> None:
    """Refuse a mapping of columns that would have no effect."""
    roles = TABLE_EVENTS.keys() | TABLE_ITEMS.keys()
    unknown = sorted(corpus.columns.keys() - roles)
    if unknown:
        raise CorpusError(
            f"corpus.columns has the unknown role {unknown[0]!r}; "
            f"choose from user, item, rating, time, title, text"
        )
    if corpus.columns and corpus.source in ("amazon", "movielens"):
        raise CorpusError(
            f"corpus.columns has no effect with corpus.source={corpus.source}, whose columns are "
            f"fixed; remove it or set corpus.source=table"
        )


def _amazon(corpus: CorpusConfig) -> Located:
    ratings = _chosen(corpus.ratings, corpus.path) or [
        file
        for file in _listed(corpus, (".csv",))
        # Benchmark folders hold other CSVs too: one that can be read is enough.
        if not stem(file).startswith("meta")
    ]
    if not ratings:
        raise _nothing(corpus, "a ratings file *.csv or *.csv.gz")
    metadata = _chosen(corpus.metadata, corpus.path) or [
        file for file in _listed(corpus, (".jsonl",)) if file.name.startswith("meta")
    ]
    if not metadata:
        raise _nothing(corpus, "a catalogue file meta*.jsonl or meta*.jsonl.gz")
    fitting = [file for file in ratings if _fits(file, AMAZON_EVENTS)]
    events = [_events_spec(corpus, file, AMAZON_EVENTS) for file in fitting or ratings]
    items = [
        # Metadata may hold titles further down than its first lines.
        _items_spec(
            file,
            AMAZON_ITEMS,
            extra=("features",),
            required=("item",) if _format(file) == "jsonl" else ("item", "title"),
        )
        for file in metadata
    ]
    names = {stem(f).replace("_", " ") for f in fitting} - {"ratings"}
    return Located(events, items, False, None, ", ".join(sorted(names)) or "Amazon products")


def _fits(file: Path, columns: dict[str, str]) -> bool:
    try:
        return set(columns.values()) <= set(read_header(file, format=_format(file)))
    except CorpusError:
        return False


def _movielens(corpus: CorpusConfig) -> Located:
    ratings = _chosen(corpus.ratings, corpus.path) or _named(corpus, "ratings", (".csv",))
    movies = _chosen(corpus.metadata, corpus.path) or _named(corpus, "movies", (".csv",))
    if not ratings:
        raise _nothing(corpus, "ratings.csv")
    if not movies:
        raise _nothing(corpus, "movies.csv")
    events = [_events_spec(corpus, file, MOVIELENS_EVENTS) for file in ratings]
    items = [_items_spec(file, MOVIELENS_ITEMS) for file in movies]
    return Located(events, items, False, None, "Movies")


def _recbole(corpus: CorpusConfig) -> Located:
    inter = _chosen(corpus.ratings, corpus.path) or _listed(corpus, (".inter",))
    item = _chosen(corpus.metadata, corpus.path) or _listed(corpus, (".item",))
    if not inter:
        raise _nothing(corpus, "an interactions file *.inter")
    if not item:
        raise _nothing(corpus, "a catalogue file *.item")
    events = []
    for file in inter:
        columns = RECBOLE_EVENTS | _known(corpus.columns, RECBOLE_EVENTS)
        events.append(_events_spec(corpus, file, columns, typed=True))
    items = []
    for file in item:
        header = _untyped(read_header(file, format="tsv"))
        title = next((name for name in RECBOLE_TITLES if name in header), "title")
        columns = {"item": "item_id", "title": title} | _known(corpus.columns, TABLE_ITEMS)
        rest = tuple(name for name in header if name not in columns.values())
        items.append(_items_spec(file, columns, extra=rest, typed=True, mend=MAP))
    return Located(events, items, False, None, stem(inter[0]))


def _table(corpus: CorpusConfig) -> Located:
    formats = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
    metadata = _chosen(corpus.metadata, corpus.path)
    if not metadata and corpus.path:
        for name in ("items", "catalogue", "metadata", "meta"):
            metadata = metadata or _named(corpus, name, formats)
    ratings = _chosen(corpus.ratings, corpus.path)
    if not ratings:
        listed = [f for f in _listed(corpus, formats) if f not in metadata]
        preferred = [f for f in listed if stem(f) in ("interactions", "ratings", "events")]
        ratings = preferred or listed
    if not ratings:
        raise _nothing(corpus, "an interactions file (Parquet, CSV or JSONL)")
    columns = TABLE_EVENTS | _known(corpus.columns, TABLE_EVENTS)
    events = [
        _events_spec(corpus, file, columns, rating_given="rating" in corpus.columns)
        for file in ratings
    ]
    item_columns = TABLE_ITEMS | _known(corpus.columns, TABLE_ITEMS)
    mend = MAP if metadata else f"{MAP}, or corpus.metadata to a file with the catalogue"
    items = [_items_spec(file, item_columns, mend=mend) for file in metadata or ratings]
    return Located(events, items, not metadata, None, stem(ratings[0]).replace("_", " "))


def _events_spec(
    corpus: CorpusConfig,
    file: Path,
    columns: dict[str, str],
    *,
    typed: bool = False,
    rating_given: bool = False,
) -> FileSpec:
    format = _format(file)
    header = read_header(file, format=format)
    names = _untyped(header) if typed else header
    optional = corpus.source in ("recbole", "table") and not rating_given
    # The first JSON line need not hold every key, but the keys that events need it must.
    if optional and columns["rating"] not in names:
        columns = {role: name for role, name in columns.items() if role != "rating"}
    mend = MAP if corpus.source in ("recbole", "table") else MEND
    _require(file, names, list(columns.values()), mend=mend)
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
    required: tuple[str, ...] = ("item", "title"),
    typed: bool = False,
    mend: str = MEND,
) -> FileSpec:
    format = _format(file)
    header = read_header(file, format=format)
    names = _untyped(header) if typed else header
    _require(file, names, [columns[role] for role in required], mend=mend)
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


def _require(file: Path, names: tuple[str, ...], needed: list[str], *, mend: str) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise CorpusError(
            f"{file} has no column {missing[0]!r}; found {', '.join(map(repr, names[:20]))}; {mend}"
        )


def _untyped(header: tuple[str, ...]) -> tuple[str, ...]:
    """RecBole headers carry types: ``user_id:token`` -> ``user_id``."""
    return tuple(name.split(":")[0] for name in header)


def _known(columns: dict[str, str], roles: dict[str, str]) -> dict[str, str]:
    return {role: name for role, name in columns.items() if role in roles}


def _format(file: Path) -> Format:
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix not in EXTENSIONS:
        raise CorpusError(f"{file} has an unknown format; use {', '.join(EXTENSIONS)}, or .gz")
    return EXTENSIONS[suffix]


def _chosen(name: str | None, folder: str | None) -> list[Path]:
    """A file named in the settings, relative to the folder or to the working directory."""
    if name is None:
        return []
    for path in [Path(folder or ".") / name, Path(name)]:
        if path.is_file():
            return [path.absolute()]
    raise CorpusError(f"{Path(name).absolute()} is missing; check corpus.ratings, corpus.metadata")


def _listed(corpus: CorpusConfig, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of the folder with one of the suffixes; of a plain file and its .gz, the plain one."""
    if not corpus.path:
        return []
    folder = Path(corpus.path).absolute()
    if folder.is_file():
        return [folder] if Path(folder.name.removesuffix(".gz")).suffix in suffixes else []
    if not folder.is_dir():
        raise CorpusError(f"corpus.path {folder} is no folder; check the path")
    found = {
        file.name.removesuffix(".gz"): file
        # .gz sorts last, so going backwards the plain file replaces it
        for file in sorted(folder.iterdir(), reverse=True)
        if file.is_file() and Path(file.name.removesuffix(".gz")).suffix.lower() in suffixes
    }
    return sorted(found.values())


def _named(corpus: CorpusConfig, name: str, suffixes: tuple[str, ...]) -> list[Path]:
    return [file for file in _listed(corpus, suffixes) if stem(file) == name]


def _nothing(corpus: CorpusConfig, wanted: str) -> CorpusError:
    folder = Path(corpus.path or ".").absolute()
    names = sorted(f.name for f in folder.iterdir())[:10] if folder.is_dir() else []
    found = f"it holds {', '.join(names)}" if names else "it is empty or absent"
    if folder.is_file():
        found = "it is a file of another kind"
    mend = "set corpus.path, corpus.ratings or corpus.metadata"
    if corpus.source == "amazon":
        mend += ", or add corpus.download=true with corpus.category"
    return CorpusError(f"{folder} lacks {wanted}; {found}; {mend}")
