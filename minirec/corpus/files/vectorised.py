"""Parses blocks of rows column by column.

The result is that of `minirec.corpus.files.parse.parse_rows` on all rows of the file. What the
kernels may not take plainly goes through it: odd quotes, lines that may belong together, wrong
encodings, nested values, and every row that is rejected.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson

from minirec.corpus.files import columns, lines, roles
from minirec.corpus.files.event_types import DROPPED
from minirec.corpus.files.lines import Lines
from minirec.corpus.files.parse import CATALOGUE, EVENTS, file_column, parse_rows
from minirec.corpus.files.quoting import Line
from minirec.corpus.files.roles import READERS
from minirec.corpus.files.rows import as_json, batches, rows_of_lines
from minirec.corpus.files.spec import FileSpec, unreadable

FEW_LINES = 64


@dataclass(frozen=True)
class Piece:
    """M rows of a block as columns.

    Attributes:
        table: the columns that are needed, M values each.
        line: (M,) int64, the number of each row.
        rows: gives number and bytes of the rows at some places, for the row parser.
        odd: (M,) bool, rows that the row parser has to read anyway.
    """

    table: dict[str, pa.Array]
    line: np.ndarray
    rows: Callable[[np.ndarray], list[Line]]
    odd: np.ndarray


def parse(blocks: pa.Table, specs: dict[str, FileSpec], *, few_lines: int = FEW_LINES) -> pa.Table:
    """Parse blocks of rows, `minirec.corpus.files.blocks.BLOCKS`, of files of one kind.

    Args:
        specs: path -> spec, all of the same kind (events or items).
        few_lines: so few lines of JSON that cannot be read together are read one by one.

    Returns:
        `EVENTS` or `CATALOGUE`: the rows of the blocks in order.
    """
    kinds = {spec.kind for spec in specs.values()}
    schema = EVENTS if kinds == {"events"} else CATALOGUE
    tables = [_parsed(block, specs[block["file"]], few_lines) for block in blocks.to_pylist()]
    return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()


def _parsed(block: dict[str, Any], spec: FileSpec, few_lines: int) -> pa.Table:
    line = block["line"]
    if line < 0:
        return parse_rows([(line, block["raw"])], spec)
    start, stop = block["start"], block["stop"]
    try:
        table = pa.Table.from_batches(batches(spec, start, stop)) if spec.binary else None
        data = b"" if spec.binary else block["raw"] or _bytes(spec.path, start, stop)
    except (OSError, pa.ArrowException) as error:
        return parse_rows([(-1, unreadable(error).encode())], spec)
    if table is not None:
        return _joined(*_of_columns(table, spec, start), spec)
    json_lines = spec.format == "jsonl"
    names = spec.columns.values() if json_lines else spec.header
    # JSON of a catalogue is nested, and few lines. A row of JSON may have a column of its folder,
    # and a column such as a.b is inside an object.
    nested = any("." in name for name in names)
    by_rows = json_lines and (spec.kind == "items" or spec.partition or nested)
    if by_rows or not READERS[spec.kind].takes(spec, names):
        return parse_rows(rows_of_lines(io.BytesIO(data), spec, first=line), spec)
    found = Lines.of(data, line)
    if json_lines:
        return _joined(*_of_json(found, spec, few_lines), spec)
    return _joined(*_of_csv(found, spec), spec)


def _bytes(file: str, start: int, stop: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def _joined(pieces: list[Piece], rest: list[Line], spec: FileSpec) -> pa.Table:
    """The table of a block: what the kernels read, and the other rows, ordered by line."""
    schema = EVENTS if spec.kind == "events" else CATALOGUE
    tables = []
    for piece in pieces:
        n = len(piece.line)
        table = piece.table | {name: pa.repeat(value, n) for name, value in spec.partition.items()}
        found, ok = READERS[spec.kind].read(table, spec, n)
        ok &= ~piece.odd
        line = piece.line
        if "event" in spec.columns:
            kind = roles.dropped_types(table, spec)
            out = kind.is_valid().to_numpy(zero_copy_only=False) & ~piece.odd
            tables.append(_dropped(kind.filter(pa.array(out)), line[out], spec))
        else:
            out = np.zeros(n, dtype=bool)
        refused, ok = ~ok & ~out, ok & ~out
        if not ok.all():
            rest = rest + piece.rows(np.flatnonzero(refused))
            found = [column.filter(pa.array(ok)) for column in found]
            line = line[ok]
        tables.append(pa.table([*found, *_source(line, spec)], schema=schema))
    if rest:
        tables.append(parse_rows(rest, spec))
    table = pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()
    number = table["line"].to_numpy()
    if np.all(number[1:] > number[:-1]):
        return table
    return table.take(pa.array(np.argsort(number, kind="stable")))


def _dropped(kind: pa.Array, line: np.ndarray, spec: FileSpec) -> pa.Table:
    """Events of these dropped types, `EVENTS`."""
    nothing = [pa.nulls(len(line), field.type) for field in EVENTS][:5]
    reason = pa.repeat(DROPPED, len(line))
    place = [file_column(spec.path, len(line)), pa.array(line)]
    return pa.table([*nothing, *place, reason, kind], schema=EVENTS)


def _source(line: np.ndarray, spec: FileSpec) -> list[pa.Array]:
    nothing = pa.nulls(len(line), pa.string())
    return [file_column(spec.path, len(line)), pa.array(line), nothing, nothing]


# ---- csv and tsv


def _of_csv(found: Lines, spec: FileSpec) -> tuple[list[Piece], list[Line]]:
    plain = lines.plain_csv(found, spec)
    rest = [row for _, _, row in lines.odd_rows(found, plain, spec)]
    place = np.flatnonzero(plain)
    if not len(place):
        return [], rest
    table = _fields(found.only(place), spec)
    assert len(table) == len(place)
    return [_piece_of_lines(table, found, place)], rest


def _piece_of_lines(table: pa.Table, found: Lines, place: np.ndarray) -> Piece:
    def rows(chosen: np.ndarray) -> list[Line]:
        return [(found.first + i, found.raw(i)) for i in place[chosen].tolist()]

    arrays = {name: columns.one_array(table[name]) for name in table.column_names}
    return Piece(arrays, found.first + place, rows, np.zeros(len(place), dtype=bool))


def _fields(data: bytes, spec: FileSpec) -> pa.Table:
    """The needed columns of plain lines as strings."""
    # Of columns with the same name the last one counts.
    place = {name: str(index) for index, name in enumerate(spec.header)}
    needed = dict.fromkeys([*spec.columns.values(), *spec.extra])
    names = [name for name in needed if name not in spec.partition]
    wanted = [place[name] for name in names]
    table = pacsv.read_csv(
        pa.BufferReader(data),
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=len(data) + 1,
            column_names=[str(index) for index in range(len(spec.header))],
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=spec.delimiter, quote_char='"' if spec.quoted else False
        ),
        convert_options=pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
        ),
    )
    return table.rename_columns(names)


# ---- JSON lines


def _of_json(found: Lines, spec: FileSpec, few_lines: int) -> tuple[list[Piece], list[Line]]:
    plain = lines.plain_json(found)
    rest = [row for _, _, row in lines.odd_rows(found, plain, spec)]
    pieces = []
    waiting = [np.flatnonzero(plain)]
    while waiting:
        place = waiting.pop()
        table = None
        if len(place) > few_lines:
            table = _objects(found.only(place), found.raw(place[0]), spec)
        if table is not None and len(table) == len(place):
            pieces.append(_piece_of_lines(table, found, place))
        elif len(place) <= max(1, few_lines):
            rest += [(found.first + i, found.raw(i)) for i in place.tolist()]
        else:
            waiting += [place[: len(place) // 2], place[len(place) // 2 :]]
    return pieces, rest


def _objects(data: bytes, first: bytes, spec: FileSpec) -> pa.Table | None:
    """The needed columns of lines with one object each; None if they differ in their types.

    Args:
        first: the first line, which says the types.
    """
    try:
        row = json.loads(first)
        types = {name: _type(role, row.get(name)) for role, name in spec.columns.items()}
        if None in types.values():
            return None
        return pajson.read_json(
            pa.BufferReader(data),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pajson.ParseOptions(
                explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"
            ),
        )
    except (ValueError, RecursionError, pa.ArrowException):
        return None


def _type(role: str, value: Any) -> pa.DataType | None:
    """The type of a column with this value; numbers of all kinds are floats in JSON."""
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    whole = isinstance(value, int) and role not in ("rating", "time")
    return pa.int64() if whole else pa.float64()


# ---- Parquet and Arrow


def _of_columns(table: pa.Table, spec: FileSpec, start: int) -> tuple[list[Piece], list[Line]]:
    def rows(chosen: np.ndarray) -> list[Line]:
        taken = table.take(pa.array(chosen)).to_pylist()
        return [
            (start + 1 + i, as_json(row)) for i, row in zip(chosen.tolist(), taken, strict=True)
        ]

    arrays, odd = {}, np.zeros(len(table), dtype=bool)
    for name in table.column_names:
        arrays[name], bad = columns.normal(table[name])
        odd |= bad
    types = [array.type for array in arrays.values()]
    takes = READERS[spec.kind].takes(spec, table.column_names)
    if not (takes and all(map(columns.can_read, types))):
        return [], rows(np.arange(len(table)))
    return [Piece(arrays, start + 1 + np.arange(len(table)), rows, odd)], []
