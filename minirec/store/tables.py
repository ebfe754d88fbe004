"""Tables and arrays that carry the sha256 of their own file, so that damage is found on reading.

A Parquet file holds it in its footer, as ``minirec.sha256``: 64 hexadecimal digits, computed with
these digits as zeros. An array file holds it after the array, where `numpy.load` does not look.
Files of users, without one, are read as they are.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minirec.errors import DamageError
from minirec.store.files import AGAIN, atomic, reading
from minirec.store.remote import is_remote

ROW_GROUP = 65_536
"""Rows in a row group, so that a reader can take a table in slices."""
KEY = b"minirec.sha256"
# A second entry names the first, so that damage to the key itself does not make a file unchecked.
ENTRIES = {KEY: b"0" * 64, b"minirec.checked": KEY}
# In Thrift's compact protocol: the key, a field of type binary, and its length, 64.
IN_FOOTER = re.compile(re.escape(KEY) + rb"\x18\x40(.{64})", re.DOTALL)
TAIL = 1 << 16
TRAILER = re.compile(rb"\nsha256 ([0-9a-f]{64})\n", re.DOTALL)
TRAILER_BYTES = 73


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of Parquet whose file appears at `path`, with its checksum, on success.

    The bytes follow from the row groups that are written, see `ROW_GROUP`.
    """
    with atomic(path) as file:
        with pq.ParquetWriter(file, _plain(schema), compression="zstd") as writer:
            yield writer
            writer.add_key_value_metadata(ENTRIES)
        place = _place(file)
        assert place is not None
        found = _sha256(file, place)
        file.seek(place)
        file.write(found.encode())


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet atomically, deterministically for equal tables, with its checksum."""
    table = table.replace_schema_metadata(_plain(table.schema).metadata)
    with table_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read Parquet; an `ArtifactError` names the file if it is missing or damaged."""
    with open_table(path) as source:
        table = source.read(columns=columns)
    return table.replace_schema_metadata(_plain(table.schema).metadata)


@contextmanager
def open_table(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file that has passed its check, e.g. to read it by row groups."""
    with _opened(path) as file:
        yield pq.ParquetFile(file)


def check_table(path: Path) -> None:
    """`ArtifactError` if a Parquet file is missing or damaged; it is read in small pieces."""
    with open_table(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[pa.NativeFile]:
    """The file, compared with its checksum; what a reader finds wrong in it names the file too."""
    with reading(path):
        try:
            with compared(path) as file:
                yield file
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's, not Arrow's
                raise
            raise DamageError(f"{path} is damaged ({error}); {AGAIN}") from None


@contextmanager
def compared(path: Path) -> Iterator[pa.NativeFile]:
    """A file for a reader of Parquet; `ArtifactError` if it is not as its checksum says."""
    with _native(path) as file:
        place = _place(file)
        if place is not None:
            found = _sha256(file, place)
            _compare(path, found, bytes(file.read(64)))
        file.seek(0)
        yield file


def _native(path: Path) -> pa.NativeFile:
    if not is_remote(path):
        return pa.OSFile(str(path))
    with reading(path):
        return pa.BufferReader(path.read_bytes())


def _place(file: BinaryIO | pa.NativeFile) -> int | None:
    """Where the digits stand; None in a file without a checksum."""
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - TAIL)
    file.seek(start)
    tail = bytes(file.read(TAIL))
    found = list(IN_FOOTER.finditer(tail))
    if found:
        return start + found[-1].start(1)
    if KEY in tail:
        raise OSError("its footer names a checksum and holds none")
    return None


def _sha256(file: BinaryIO | pa.NativeFile, place: int) -> str:
    """The hash of a file with zeros at `place`; the file then stands at `place`."""
    digest = hashlib.sha256()
    file.seek(0)
    left = place
    while piece := file.read(min(left, 1 << 20)):
        digest.update(piece)
        left -= len(piece)
    digest.update(ENTRIES[KEY])
    file.seek(place + 64)
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(place)
    return digest.hexdigest()


def _compare(path: Path, found: str, written: bytes) -> None:
    if found.encode() != written:
        raise DamageError(
            f"{path} is damaged: the sha256 of its content is {found[:12]}..., "
            f"{written[:12].decode('ascii', 'replace')}... was written; {AGAIN}"
        )


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without the entries that a file has of its own, which a reader would hand on."""
    kept = {k: v for k, v in (schema.metadata or {}).items() if k not in ENTRIES}
    return schema.with_metadata(kept or None)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` atomically, with its checksum; `numpy.load` reads it as well."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    with atomic(path) as file:
        file.write(content)
        file.write(f"\nsha256 {hashlib.sha256(content).hexdigest()}\n".encode())


def check_array(path: Path) -> None:
    """`ArtifactError` if an array file is missing or damaged."""
    read_array(path)


def read_array(path: Path) -> np.ndarray:
    """Read what `write_array` wrote; `ArtifactError` if the file is missing or damaged."""
    with reading(path):
        data = path.read_bytes()
    trailer = TRAILER.fullmatch(data[-TRAILER_BYTES:])
    if trailer:
        _compare(path, hashlib.sha256(data[:-TRAILER_BYTES]).hexdigest(), trailer[1])
    buffer = io.BytesIO(data)
    try:
        array: Any = np.load(buffer, allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever its parser does
        raise DamageError(f"{path} is damaged ({error}); {AGAIN}") from None
    if not trailer and buffer.tell() != len(data):
        raise DamageError(f"{path} is damaged: its checksum is not readable; {AGAIN}")
    return array
