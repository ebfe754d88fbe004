"""Opens Parquet and Arrow files, and reads them as record batches.

An Arrow file is a stream of record batches, as the `datasets` library writes it, or a file with
random access, which is also Feather version 2.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from minirec.errors import CorpusError

Binary = Literal["parquet", "arrow"]
NAMES: dict[str, str] = {"parquet": "Parquet", "arrow": "Arrow"}
WITH_RANDOM_ACCESS = b"ARROW1"
"""First bytes of an Arrow file with random access."""


def column_names(path: Path, format: Binary) -> tuple[str, ...]:
    """The columns of a file in order; raises `CorpusError` if the file is not of this format.

    The field ``b`` of the struct ``a`` is the column ``a.b``, right after ``a``.
    """
    return _paths(_opened(path, format)[0])


def content(path: Path, format: Binary, columns: Collection[str]) -> tuple[int, int]:
    """Rows of a file, and about how many bytes these columns have in memory.

    Raises:
        CorpusError: the file is not of this format.
        pyarrow.ArrowException, OSError: it is damaged.
    """
    schema, file = _opened(path, format)
    if not isinstance(file, pq.ParquetFile):
        sizes = [
            (batch.num_rows, batch.select(_tops(schema, columns)).nbytes)
            for batch in _batches(file)
        ]
        return sum(rows for rows, _ in sizes), sum(size for _, size in sizes)
    size = 0
    for group in range(file.metadata.num_row_groups):
        of_group = file.metadata.row_group(group)
        for place in range(of_group.num_columns):
            column = of_group.column(place)
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns):
                size += column.total_uncompressed_size
    return file.metadata.num_rows, size


def record_batches(
    path: Path,
    format: Binary,
    *,
    columns: Collection[str],
    rows: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """A range of rows of a file in order, in batches of at most `rows`, with these columns.

    The columns are in the order of the file. An Arrow file is mapped into memory, and a Parquet
    file is decoded batch by batch. Where the `datasets` library recorded the names of labels
    (``ClassLabel``), a label is its name, and null if it is no valid label. Texts in views become
    usual texts, since Arrow has few kernels for views.

    Args:
        start: the first row, from 0.
        stop: the row after the last one, None for the end of the file.

    Raises:
        CorpusError: the file is not of this format.
        pyarrow.ArrowException, OSError: it is damaged after its beginning.
    """
    schema, file = _opened(path, format)
    names = _present(schema, columns)
    tops = {name: _top(schema, name) for name in names}
    labels = {name: words for name, words in _labels(schema).items() if name in names}
    place, batches = _from(file, list(dict.fromkeys(tops.values())), rows, start, stop)
    for batch in batches:
        end = place + batch.num_rows if stop is None else stop
        part = batch[max(0, start - place) : max(0, end - place)]
        place += batch.num_rows
        if not part.num_rows:
            if stop is not None and place >= stop:
                return
            continue
        part = _readable(_flat(part, tops))
        for name, words in labels.items():
            part = _with_names(part, name, words)
        yield part


def _from(
    file: Any, names: list[str], rows: int, start: int, stop: int | None
) -> tuple[int, Iterator[pa.RecordBatch]]:
    """The number of the first row of the batches that hold a range of rows, and the batches."""
    if not isinstance(file, pq.ParquetFile):
        return 0, _slices(file, names, rows)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    ends = list(itertools.accumulate(sizes))
    stop = sum(sizes) if stop is None else stop
    groups = [g for g, end in enumerate(ends) if end > start and end - sizes[g] < stop]
    place = ends[groups[0]] - sizes[groups[0]] if groups else 0
    return place, file.iter_batches(rows, row_groups=groups, columns=names)


def _present(schema: pa.Schema, columns: Collection[str]) -> list[str]:
    return [name for name in _paths(schema) if name in columns]


def _paths(schema: pa.Schema) -> tuple[str, ...]:
    """The columns, each followed by the fields of its struct with a dot between."""
    found: dict[str, None] = {}

    def add(field: pa.Field, above: str) -> None:
        found[above + field.name] = None
        for inner in field.type.fields if pa.types.is_struct(field.type) else ():
            add(inner, f"{above}{field.name}.")

    for field in schema:
        add(field, "")
    return tuple(found)


def _tops(schema: pa.Schema, columns: Collection[str]) -> list[str]:
    """The columns of the file that hold these columns, each once."""
    names = _present(schema, columns)
    return list(dict.fromkeys(_top(schema, name) for name in names))


def _top(schema: pa.Schema, name: str) -> str:
    """The column of the file that holds a column such as ``a.b``."""
    tops = schema.names
    parts = name.split(".")
    known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(one for one in known if one in tops)


def _flat(batch: pa.RecordBatch, tops: dict[str, str]) -> pa.RecordBatch:
    """The wanted columns; a field of a struct is a column, null where the struct is null."""
    columns = []
    for name, top in tops.items():
        column = batch.column(top)
        inner = name.removeprefix(top).removeprefix(".")
        while inner:
            names = [field.name for field in column.type.fields]
            taken = next(n for n in names if f"{inner}.".startswith(f"{n}."))
            column = pc.struct_field(column, [taken])
            inner = inner.removeprefix(taken).removeprefix(".")
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=list(tops))


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without views, and with texts that are not UTF-8 as bytes."""
    batch = batch.cast(pa.schema(map(_without_view, batch.schema)))
    for place, column in enumerate(batch.columns):
        if pa.types.is_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                name = batch.schema.names[place]
                batch = batch.set_column(place, name, column.view(pa.binary()))
    return batch


def _without_view(field: pa.Field) -> pa.Field:
    if pa.types.is_string_view(field.type):
        return field.with_type(pa.string())
    return field.with_type(pa.binary()) if pa.types.is_binary_view(field.type) else field


def _opened(path: Path, format: Binary) -> tuple[pa.Schema, Any]:
    """The schema, and a ParquetFile or one of Arrow's two readers of record batches."""
    try:
        if format == "parquet":
            parquet = pq.ParquetFile(path)
            return parquet.schema_arrow, parquet
        source = pa.memory_map(str(path))
        random = source.read(len(WITH_RANDOM_ACCESS)) == WITH_RANDOM_ACCESS
        source.seek(0)
        reader = pa.ipc.open_file(source) if random else pa.ipc.open_stream(source)
        return reader.schema, reader
    except (pa.ArrowException, OSError) as error:
        name = NAMES[format]
        what = "is empty" if path.exists() and not path.stat().st_size else f"is not {name}"
        first = str(error).splitlines()[0]
        raise CorpusError(f"{path} {what} ({first}); give a whole {name} file") from None


def _slices(reader: Any, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in _batches(reader):
        for start in range(0, batch.num_rows, rows):
            yield batch.select(columns).slice(start, rows)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(n) for n in range(reader.num_record_batches))
    return iter(reader)


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the labels by column, as the `datasets` library writes them to the schema."""
    try:
        known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = known.get("info", {}).get("features", {})
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, AttributeError, KeyError):
        return {}  # written by another program


def _with_names(batch: pa.RecordBatch, column: str, names: list[str]) -> pa.RecordBatch:
    place = batch.schema.get_field_index(column)
    label = batch.column(place)
    if not pa.types.is_integer(label.type):
        return batch
    valid = pc.and_(pc.greater_equal(label, 0), pc.less(label, len(names)))
    words = pa.array(names, pa.string()).take(pc.if_else(valid, label, None))
    return batch.set_column(place, column, words)
