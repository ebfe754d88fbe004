"""Opens Parquet and Arrow files, and reads them as record batches.

An Arrow file is a stream of record batches, as the `datasets` library writes it, or a file with
random access, which is also Feather version 2.
"""

from __future__ import annotations

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
    """The columns of a file in order; raises `CorpusError` if the file is not of this format."""
    return tuple(_opened(path, format)[0].names)


def record_batches(
    path: Path, format: Binary, *, columns: Collection[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, in batches of at most `rows`, with these columns.

    The columns are in the order of the file. An Arrow file is mapped into memory, and a Parquet
    file is decoded batch by batch. Where the `datasets` library recorded the names of labels
    (``ClassLabel``), a label is its name, and null if it is no valid label.

    Raises:
        CorpusError: the file is not of this format.
        pyarrow.ArrowException, OSError: it is damaged after its beginning.
    """
    schema, file = _opened(path, format)
    wanted = [name for name in schema.names if name in columns]
    labels = {name: names for name, names in _labels(schema).items() if name in wanted}
    if isinstance(file, pq.ParquetFile):
        batches = file.iter_batches(batch_size=rows, columns=wanted)
    else:
        batches = _slices(file, wanted, rows)
    for batch in batches:
        for name, names in labels.items():
            batch = _with_names(batch, name, names)
        yield batch


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
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
    else:
        batches = iter(reader)
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.select(columns).slice(start, rows)


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
