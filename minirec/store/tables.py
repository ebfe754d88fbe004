"""Tables and arrays on disk whose damage is detected when they are read.

pyarrow writes and verifies a checksum of each page of a Parquet file. The footer has no checksum:
the parser detects most damage, and its Parquet and Arrow schemas must agree. Statistics are not
checked, and nothing here reads them. After a stage has finished, the sha256 in
``stages/NAME.json`` detects the rest. An array file has its sha256 after the array, which
`numpy.load` ignores.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minirec.errors import DamageError
from minirec.store.files import AGAIN, atomic, reading
from minirec.store.remote import is_remote, local_file

ROW_GROUP = 65_536
"""Rows in a row group, so that a reader can take a table in slices."""
TRAILER = re.compile(rb"\nsha256 ([0-9a-f]{64})\n", re.DOTALL)
TRAILER_BYTES = 73
PIECE = 1 << 24
"""Bytes that are hashed at a time."""


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """An atomic writer of Parquet; the bytes depend on the row groups that are written."""
    with (
        atomic(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        yield writer


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet atomically; equal tables give equal bytes."""
    write_batches(path, table.schema, [table])


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
    """Write Parquet atomically; the bytes depend on the rows alone, not on their batches."""
    with table_writer(path, schema) as writer:
        for group in row_groups(schema, batches):
            writer.write_table(group)


def row_groups(schema: pa.Schema, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows in tables of `ROW_GROUP` rows, the last with the rest; one table if there are none.

    Each has one chunk for each column, because chunks change where pages end.
    """
    held, rows, none = [schema.empty_table()], 0, True
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        while rows >= ROW_GROUP:
            table = pa.concat_tables(held)
            yield table.slice(0, ROW_GROUP).combine_chunks()
            held, rows, none = [table.slice(ROW_GROUP)], rows - ROW_GROUP, False
    if rows or none:
        yield pa.concat_tables(held).combine_chunks()


def read_groups(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a table, one after the other; raises the errors of `read_table`."""
    with open_table(path) as source:
        for group in range(source.num_row_groups):
            yield source.read_row_group(group, columns=columns)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read what `write_table` wrote.

    Raises:
        ArtifactError: the file cannot be read.
        DamageError: it is missing, or its footer or a page of these columns is damaged.
    """
    with open_table(path) as source:
        return source.read(columns=columns)


def check_table(path: Path) -> None:
    """Read all pages of a file, one row group at a time; raises the errors of `read_table`."""
    with open_table(path) as source:
        for group in range(source.num_row_groups):
            source.read_row_group(group)


@contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a table to read it in pieces; raises the errors of `read_table`, also in the body."""
    with reading(path):
        try:
            with opened(path) as file:
                source = pq.ParquetFile(file, page_checksum_verification=True)
                _check_footer(source)
                yield source
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError, OSError) as error:
            # An error number comes from the system and not from Arrow.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamageError(f"{path} is damaged ({error}); {AGAIN}") from None


def opened(path: Path) -> pa.NativeFile:
    """Open a Parquet file; an object of a store is loaded into memory."""
    if not is_remote(path):
        return pa.OSFile(str(path))
    with reading(path):
        return pa.BufferReader(path.read_bytes())


def _check_footer(source: pq.ParquetFile) -> None:
    """Raise `pa.ArrowInvalid` if the schemas or the row counts in a footer disagree."""
    footer = source.metadata
    try:
        text = base64.b64decode((footer.metadata or {})[b"ARROW:schema"], validate=True)
        written = pa.ipc.read_schema(pa.py_buffer(text))
    except (KeyError, ValueError, TypeError):
        raise pa.ArrowInvalid("its footer holds no readable Arrow schema") from None
    groups = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    if not source.schema_arrow.equals(written) or footer.num_rows != sum(groups):
        raise pa.ArrowInvalid("its footer contradicts itself")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` with its sha256, atomically; `numpy.load` reads it too."""
    with atomic(path) as file:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, np.asanyarray(array), allow_pickle=False)
        file.write(f"\nsha256 {hashed.sha.hexdigest()}\n".encode())


class _Hashed:
    """A file that keeps the sha256 of what is written; numpy writes an array to it in pieces."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)


def check_array(path: Path) -> None:
    """Raises the errors of `read_array`."""
    if is_remote(path):
        read_array(path)
    else:
        map_array(path)


def map_array(path: Path, *, piece: int = PIECE) -> np.ndarray:
    """An array that `write_array` wrote, as a map of its file after its sha256 was compared.

    The processes of a machine that read one file share its memory. What a process writes into the
    array stays its own. An object of a store is read from its copy on this machine.
    `piece` bytes are hashed at a time.

    Raises:
        ArtifactError: the file cannot be read.
        DamageError: it is missing or damaged.
    """
    file = local_file(path, map_array)
    with reading(file), file.open("rb") as content:
        sha = hashlib.sha256()
        left = os.fstat(content.fileno()).st_size - TRAILER_BYTES
        while left > 0 and (read := content.read(min(piece, left))):
            sha.update(read)
            left -= len(read)
        trailer = TRAILER.fullmatch(content.read())
    if not trailer or sha.hexdigest() != trailer[1].decode():
        return read_array(file)  # it says what is wrong; `numpy.save` writes no checksum
    try:
        return np.load(file, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        raise DamageError(f"{path} is damaged ({error}); {AGAIN}") from None


def read_array(path: Path) -> np.ndarray:
    """Read what `write_array` or `numpy.save` wrote.

    Raises:
        ArtifactError: the file cannot be read.
        DamageError: it is missing or damaged.
    """
    with reading(path):
        data = path.read_bytes()
    trailer = TRAILER.fullmatch(data[-TRAILER_BYTES:])
    if trailer:
        found, written = hashlib.sha256(data[:-TRAILER_BYTES]).hexdigest(), trailer[1].decode()
        if found != written:
            raise DamageError(
                f"{path} is damaged: the sha256 of its content is {found[:12]}..., "
                f"{written[:12]}... was written; {AGAIN}"
            )
    buffer = io.BytesIO(data)
    try:
        array: Any = np.load(buffer, allow_pickle=False)
    except Exception as error:  # a damaged header can raise any error of its parser
        raise DamageError(f"{path} is damaged ({error}); {AGAIN}") from None
    if not trailer and buffer.tell() != len(data):
        raise DamageError(f"{path} is damaged: its checksum is not readable; {AGAIN}")
    return array
