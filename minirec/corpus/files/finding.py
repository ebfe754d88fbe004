"""Finds the tables of a folder and their formats.

A table is a file, all files that match a pattern, a dataset that ``save_to_disk`` wrote, or a
folder that Spark wrote. Such a folder has files ``part-00000-....parquet``, also in partition
folders such as ``day=2024-01-31``.
"""

from __future__ import annotations

import glob
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from minirec.corpus.files import saved
from minirec.corpus.files.arrow import NAMES
from minirec.corpus.files.spec import Format, open_bytes, stem, unpacked
from minirec.errors import CorpusError

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".inter": "tsv",
    ".item": "tsv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
JSONL = (".jsonl", ".ndjson")
BINARY = tuple(end for end, format in FORMATS.items() if format in NAMES)
TABLES = (*BINARY, ".csv", ".tsv", *JSONL, ".json")
UNPACK, SHEET, CONVERT = "unpack it", "save its sheet as CSV", "write it as Parquet or CSV"
NAME = "name it .csv or .tsv, with a header line and commas or tabs between the fields"
ADVICE = {
    **dict.fromkeys((".zip", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".tar", ".tgz"), UNPACK),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), SHEET),
    **dict.fromkeys((".orc", ".avro", ".pkl", ".h5", ".sqlite"), CONVERT),
    **dict.fromkeys((".txt", ".dat", ".data"), NAME),
}
"""What to do with files of other formats."""
VERSIONED = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
"""Marker folder -> name of a table format whose files also hold deleted rows."""
DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", saved.SPLITS, saved.DATASET)
"""Files of the `datasets` library that are not tables."""
PART = re.compile(r"part[-_.]?\d")
"""How the names of part files begin."""
PATTERN = re.compile(r"[*?\[]")
"""What makes a name a pattern."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for a missing value in the name of a folder."""


@dataclass(frozen=True)
class Table:
    """One or more files with the rows of one table; their paths are absolute.

    `path` names the table. It is the file, the folder with all files, the leading folder of a
    pattern, or ``owner/name/split`` of the hub.
    """

    path: Path
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Name of the file or folder without its ending."""
        return stem(self.path)


def ending(path: Path) -> str:
    """``.csv`` of ``x.csv``, ``X.CSV`` and ``x.csv.gz``; empty for a name without an ending."""
    return Path(unpacked(path.name)).suffix.lower()


def format_of(file: Path) -> Format:
    """The format of a file by its ending.

    Raises:
        CorpusError: the format is not supported.
    """
    found = ending(file)
    if found in BINARY and file.name.lower().endswith(".gz"):
        name = NAMES[FORMATS[found]]
        raise CorpusError(f"{file} is a compressed {name} file, which is not supported; unpack it")
    if found in FORMATS:
        return FORMATS[found]
    what = f"has the ending {found}" if found else "has no ending"
    advice = ADVICE.get(found, CONVERT if found else NAME)
    raise CorpusError(
        f"{file} {what}, which is not supported; {advice} (supported are {', '.join(FORMATS)}, and "
        f"with .gz all but {', '.join(BINARY)})"
    )


def partition(file: Path) -> dict[str, str]:
    """Columns in the names of the folders of a file, as Hive and Spark write them.

    ``day=2024-01-31/shop=A%2FB/part-0.parquet`` has ``{"shop": "A/B", "day": "2024-01-31"}``. Only
    the folders right above the file count. A missing value is an empty text.
    """
    found: dict[str, str] = {}
    for folder in file.parents:
        name, separator, value = folder.name.partition("=")
        if not (name and separator):
            break
        found.setdefault(unquote(name), "" if value == NO_VALUE else unquote(value))
    return found


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts part-2 before part-10; no two names are equal."""
    parts = re.split(r"([0-9]+)", name)  # texts and numbers in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def chosen(
    names: str | Collection[str] | None, folder: str | None, *, missing_ok: bool = False
) -> list[Table]:
    """The tables that a setting names, relative to the folder or to the working directory.

    A name is a file, a folder, or a pattern with ``*``, ``?`` or ``[``. The files that match a
    pattern are one table. A file that several names give is read once.

    Raises:
        CorpusError: one is missing in both (unless `missing_ok`), or is not a table.
    """
    tables, taken = [], set[Path]()
    for name in [names] if isinstance(names, str) else names or []:
        table = _named(name, folder)
        if table is None and missing_ok:
            continue
        if table is None:
            raise _missing(name, folder)
        files = tuple(file for file in table.files if file.resolve() not in taken)
        if files:
            tables.append(Table(table.path, files))
        taken.update(file.resolve() for file in files)
    return tables


def _named(name: str, folder: str | None) -> Table | None:
    roots = [Path(folder or "."), Path()]
    for root in roots:
        if (path := root / name).is_file() or path.is_dir():
            return _table(path.absolute())
    for root in roots if PATTERN.search(name) else []:
        if table := _matching(name, root):
            return table
    return None


def _missing(name: str, folder: str | None) -> CorpusError:
    roots = [Path(), Path(folder or ".")]
    places = dict.fromkeys(str((root / name).absolute()) for root in roots)
    check = "check corpus.ratings, corpus.metadata, corpus.appended"
    if PATTERN.search(name):
        return CorpusError(f"no table matches {' or '.join(places)}; {check}")
    return CorpusError(f"{' and '.join(places)} is missing; {check}")


def _matching(pattern: str, root: Path) -> Table | None:
    """The table of all files that match, and of the folders of parts that match."""
    leading = []
    for part in Path(pattern).parts[:-1]:
        if PATTERN.search(part):
            break
        leading.append(part)
    base = (root / Path(*leading)).absolute()
    files, folders = set[Path](), set[Path]()
    for match in glob.iglob(pattern, root_dir=root, recursive=True):
        path = (root / match).absolute()
        inner = path.relative_to(base)
        above = {*path.parents[: len(inner.parts)]} - folders
        for folder in above:
            _refuse_versioned(folder)
        folders |= above
        if not all(map(_is_visible, inner.parts)):
            continue
        if path.is_file():
            format_of(path)
            files.add(path)
        elif is_table(path, FORMATS):
            files |= {*_table(path).files}
    # .gz sorts last, so in reverse order the plain file replaces it.
    plain = {unpacked(str(file)): file for file in sorted(files, reverse=True)}
    ordered = tuple(sorted(plain.values(), key=lambda file: natural(str(file))))
    return Table(base, _with_content(ordered)) if ordered else None


def listed(folder: str | None, endings: Collection[str]) -> list[Table]:
    """Tables of a folder with one of the endings, sorted by name.

    A plain file takes precedence over its .gz. Names that begin with ``.`` or ``_`` are skipped. If
    the folder is a saved dataset, its splits are the tables.

    Raises:
        CorpusError: the folder does not exist, or one of its tables cannot be read.
    """
    if not folder:
        return []
    path = Path(folder).absolute()
    if path.is_file():
        return [_table(path)] if ending(path) in endings else []
    if not path.is_dir():
        raise CorpusError(f"corpus.path {path} is not a folder; check the path")
    _refuse_versioned(path)
    if splits := saved.splits(path) if ".arrow" in endings else []:
        # Without any rows, the first split is refused.
        return [_table(split) for split in filter(saved.has_rows, splits)] or [_table(splits[0])]
    found: dict[str, Table] = {}
    # .gz sorts last, so in reverse order the plain file replaces it.
    for entry in reversed(list(_visible(path))):
        if entry.is_dir():
            if is_table(entry, endings):
                found[entry.name] = _table(entry)
        elif ending(entry) in endings and not (PART.match(entry.name) and _is_empty(entry)):
            found[unpacked(entry.name)] = _table(entry)
    return [found[name] for name in sorted(found)]


def named(folder: str | None, names: Collection[str], endings: Collection[str]) -> list[Table]:
    """Tables of `listed` with one of these names; case does not matter."""
    return [table for table in listed(folder, endings) if table.name.lower() in names]


def nothing(folder: str | None, wanted: str, *, fix: str) -> CorpusError:
    """The error for a folder without the files of a source."""
    path = Path(folder or ".").absolute()
    entries = list(_visible(path)) if path.is_dir() else []
    found = f"it holds {', '.join(e.name for e in entries[:10])}" if entries else "it is empty"
    if path.is_file():
        found, entries = f"it is a file, {path.name}", [path]
    elif not path.is_dir():
        found = "it does not exist"
    packed = [entry for entry in entries if ending(entry) in ADVICE]
    if packed:
        fix = f"{packed[0].name} is not supported: {ADVICE[ending(packed[0])]}, or {fix}"
    return CorpusError(f"{path} lacks {wanted}; {found}; {fix}")


def _visible(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if _is_visible(entry.name):
            yield entry


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "_")) and name not in DESCRIPTIONS


def is_table(folder: Path, endings: Collection[str]) -> bool:
    """Whether a folder is one table: its name, or its files of parts, have one of the endings."""
    if ending(folder) in FORMATS:
        return ending(folder) in endings
    if saved.splits(folder):
        return ".arrow" in endings
    parts = any(PART.match(entry.name) or "=" in entry.name for entry in _visible(folder))
    if not (parts or "=" in folder.name or (folder / "_SUCCESS").exists()):
        return False
    return any(ending(file) in endings for file in folder.rglob("*"))


def _table(path: Path) -> Table:
    if path.is_file():
        format_of(path)
        return Table(path, (path,))
    if saved.splits(path):
        return Table(path, saved.shards(path))
    files = tuple(_parts(path))
    if not files:
        raise CorpusError(f"{path} is a folder without a file to read; give a table")
    return Table(path, _with_content(files))


def _with_content(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files that are not empty; the first file if all are empty."""
    return tuple(file for file in files if not _is_empty(file)) or files[:1]


def _parts(folder: Path) -> Iterator[Path]:
    """The part files of a folder and of its partitions."""
    _refuse_versioned(folder)
    for entry in _visible(folder):
        if entry.is_dir() and "=" not in entry.name:
            raise CorpusError(
                f"{folder} holds the folder {entry.name}, which is not a partition (name=value); "
                f"give a folder that holds only the parts of one table"
            )
        if entry.is_dir():
            yield from _parts(entry)
        else:
            format_of(entry)
            yield entry


def _refuse_versioned(folder: Path) -> None:
    for name, kind in VERSIONED.items():
        if (folder / name).is_dir():
            raise CorpusError(
                f"{folder} is a table of {kind}, whose files also hold deleted rows; write its "
                f"current rows as plain Parquet"
            )


def _is_empty(file: Path) -> bool:
    """Whether a text file has no bytes, as Spark writes it for a partition without rows."""
    if ending(file) in BINARY:
        return False
    try:
        with open_bytes(file) as content:
            return not content.read(1)
    except (OSError, EOFError, zlib.error):
        return False  # reading the file will report the error
