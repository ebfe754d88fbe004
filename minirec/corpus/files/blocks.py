"""Cuts input files into blocks of whole rows, which can be parsed on any node."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from minirec.corpus.files import quoting
from minirec.corpus.files.arrow import content
from minirec.corpus.files.lines import Lines, odd_rows, plain_csv
from minirec.corpus.files.rows import wanted
from minirec.corpus.files.spec import FileSpec, open_bytes, unreadable

BLOCK_BYTES = 8 << 20
BLOCK_ROWS = 500_000
"""Upper bound for Parquet and Arrow, whose values can be small."""

SCANNED_LINES = 10 * quoting.MAX_JOINED_LINES

BLOCKS = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("raw", pa.large_binary()),
    ]
)
"""Blocks of whole rows of files.

line is the number of the first line, from 1 (Parquet, Arrow: row). A plain text file has
start and stop, a range of its bytes, and raw is null. A .gz file has raw, the unpacked bytes, and
start and stop are null. A Parquet or Arrow file has start and stop, a range of its rows from 0. If
a file cannot be read to its end, its last block has the line -1 and an error message as raw."""


def read_blocks(
    spec: FileSpec, *, block_bytes: int = BLOCK_BYTES, block_rows: int = BLOCK_ROWS
) -> Iterator[pa.Table]:
    """The blocks of a file in order, without the header; each table, `BLOCKS`, has one row.

    A row is never divided: in csv and tsv a quoted field may hold line breaks.

    Args:
        block_bytes: a block has about so many bytes, or one longer row.
        block_rows: a block of a Parquet or Arrow file has at most so many rows.
    """
    try:
        if spec.binary:
            yield from _binary_blocks(spec, block_bytes, block_rows)
        else:
            yield from _text_blocks(spec, block_bytes)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        yield _block(spec, -1, raw=unreadable(error).encode())


def _block(
    spec: FileSpec,
    line: int,
    start: int | None = None,
    stop: int | None = None,
    raw: bytes | None = None,
) -> pa.Table:
    row = {"file": spec.path, "line": line, "start": start, "stop": stop, "raw": raw}
    return pa.Table.from_pylist([row], schema=BLOCKS)


def _text_blocks(spec: FileSpec, block_bytes: int) -> Iterator[pa.Table]:
    with open_bytes(spec.path) as file:
        line, start = 1, 0
        if spec.has_header:
            line, start = 2, len(file.readline())
        data, wished, ended = b"", block_bytes, False
        while True:
            more = file.read(max(0, wished - len(data))) if not ended else b""
            data += more
            ended = ended or len(data) < wished
            cut = len(data) if ended else _cut(data, line, spec)
            if not cut:
                if ended:
                    return
                wished = 2 * len(data)
                continue
            if spec.packed:
                yield _block(spec, line, raw=data[:cut])
            else:
                yield _block(spec, line, start, start + cut)
            line += data.count(b"\n", 0, cut)
            start += cut
            data, wished = data[cut:], block_bytes


def _cut(data: bytes, line: int, spec: FileSpec) -> int:
    """The last place in the data at which a row surely begins; 0 if there is none after its start.

    Args:
        data: it begins with a row, and goes on after its end.
        line: the number of its first line.
    """
    end = data.rfind(b"\n") + 1
    if not end or not (spec.quoted and spec.has_header):
        return end
    return _after_quiet_lines(data, end, spec) or _last_row(data[:end], line, spec)


def _after_quiet_lines(data: bytes, end: int, spec: FileSpec) -> int:
    """The last line break after which a row begins whatever the lines before it mean.

    A row ends at most `quoting.MAX_JOINED_LINES` lines after a line that leaves a quote open. So a
    row begins after so many lines, or all lines of the data, none of which leaves a quote open.
    Blank lines do not count, as in `quoting.join`. 0 if the last lines of the data are not quiet.
    """
    cut, quiet, stop = end, 0, end
    for _ in range(SCANNED_LINES):
        if not stop or quiet == quoting.MAX_JOINED_LINES:
            return cut
        begin = data.rfind(b"\n", 0, stop - 1) + 1
        raw = data[begin:stop].rstrip(b"\r\n")
        if quoting.leaves_open(raw, spec.delimiter):
            cut, quiet = begin, 0
        elif raw.strip():
            quiet += 1
        stop = begin
    return 0


def _last_row(data: bytes, line: int, spec: FileSpec) -> int:
    """Where a row begins near the end of the data, which begins with a row; 0 if it is too short.

    The lines of each row are joined as in the whole file, so the last lines of the data, which need
    further lines for that, are left out.
    """
    found = Lines.of(data, line)
    cut, more = len(found), quoting.MAX_JOINED_LINES
    while cut and more:
        cut -= 1
        more -= bool(found.raw(cut).strip())
    for index, after, _ in odd_rows(found, plain_csv(found, spec), spec):
        if after > cut:
            cut = min(cut, index)
            break
    return int(found.start[cut])


def _binary_blocks(spec: FileSpec, block_bytes: int, block_rows: int) -> Iterator[pa.Table]:
    assert spec.binary
    rows, size = content(Path(spec.path), spec.binary, wanted(spec))
    # Dictionaries and runs shrink columns in a file, so rows count too.
    step = max(1, min(block_rows, rows * block_bytes // max(1, size)))
    for start in range(0, rows, step):
        yield _block(spec, start + 1, start, min(rows, start + step))
