"""Reads the columns of Parquet, JSONL and NPZ files. `tables` makes `Features` from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from minirec.errors import ArtifactError
from minirec.selection.checks import first
from minirec.store.tables import opened

REWARDS = ("rewards", "reward", "mean_reward")
"""Names of the reward column. The first one in the file is read."""
VECTORS = ("embedding", "hvp", "gradient", "rollout_gradient", "lora_gradient")
SCREEN = ("screen_reward", "screen_ndcg")
COUNTS = ("hits", "rollouts", "screened")
COLUMNS = ("sample_id", *REWARDS, "ndcg", "el2n", *COUNTS, *SCREEN, *VECTORS)
"""All columns that can be read. Other columns of a file are ignored."""


@dataclass(frozen=True)
class Lists:
    """A list of numbers per row: all lists joined in `flat`, and their `lengths` (N,)."""

    flat: NDArray
    lengths: NDArray[np.int64]

    def rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def mean(self) -> NDArray[np.float64]:
        """(N,) mean of each list, NaN for an empty list."""
        total = np.bincount(self.rows(), weights=self.flat, minlength=len(self.lengths))
        empty = np.full(len(total), np.nan)
        return np.divide(total, self.lengths, out=empty, where=self.lengths > 0)

    def above(self, level: float) -> NDArray[np.int64]:
        """(N,) number of values above `level` in each list."""
        rows = self.rows()[self.flat > level]
        return np.bincount(rows, minlength=len(self.lengths)).astype(np.int64)


@dataclass(frozen=True)
class Part:
    """The columns of one file or table: one number or one list per row.

    `file` is what errors call it. `lines` holds the line number of each row of a text file. Only
    NPZ files have a `validation_gradient`.
    """

    file: Path | str
    columns: dict[str, NDArray | Lists] = field(default_factory=dict)
    lines: list[int] | None = None
    validation_gradient: NDArray | None = None

    @property
    def numbers(self) -> dict[str, NDArray]:
        return {name: c for name, c in self.columns.items() if not isinstance(c, Lists)}

    @property
    def lists(self) -> dict[str, Lists]:
        return {name: c for name, c in self.columns.items() if isinstance(c, Lists)}

    def refuse(self, row: int, name: str, found: str, expected: str) -> ArtifactError:
        """The error for one value."""
        where = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        return ArtifactError(f"{self.file} {where}, column {name}: {found}; expected {expected}")

    def check(self, bad: NDArray[np.bool_], name: str, values: NDArray, expected: str) -> None:
        """Raise for the first bad row (N,) with its value."""
        if (row := first(bad)) is not None:
            raise self.refuse(row, name, str(values[row]), expected)


def parquet(file: Path, wanted: Collection[str]) -> Part:
    """Read the wanted columns of a Parquet file. A null is NaN or an empty list."""
    try:
        with opened(file) as content:
            source = pq.ParquetFile(content, page_checksum_verification=True)
            names = _names(file, source.schema_arrow, wanted)
            table = source.read(columns=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, "Parquet", error) from None
    return Part(file, {name: _from_arrow(file, name, table[name]) for name in names})


def in_memory(table: pa.Table, wanted: Collection[str]) -> Part:
    """The wanted columns of a table. A null is NaN or an empty list."""
    file = "the table"
    names = _names(file, table.schema, wanted)
    if names and not table.num_rows:  # its columns may have no type
        raise ArtifactError(f"{file} has no rows; give a table with samples")
    return Part(file, {name: _from_arrow(file, name, table[name]) for name in names})


def _names(file: Path | str, columns: pa.Schema, wanted: Collection[str]) -> list[str]:
    names = [name for name in columns.names if name in wanted]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ArtifactError(f"{file} has {len(doubled)} columns {doubled[0]}; keep one")
    return names


def _from_arrow(file: Path | str, name: str, column: pa.ChunkedArray) -> NDArray | Lists:
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if listed or pa.types.is_fixed_size_list(kind):
        if pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            return Lists(pc.list_flatten(column).to_numpy(), lengths.astype(np.int64))
    elif pa.types.is_boolean(kind):
        return column.cast(pa.int8()).to_numpy()
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    raise ArtifactError(
        f"{file} column {name} holds {kind}; expected numbers, or a list of numbers in each row"
    )


def npz(file: Path, wanted: Collection[str]) -> Part:
    """Read the wanted arrays of an NPZ file: (N,) arrays are numbers, (N, n) arrays are lists."""
    known = (*wanted, "validation_gradient")
    try:
        # A pickled array could run code.
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in known if name in arrays}
    except Exception as error:  # a corrupted archive raises many kinds of errors
        raise _unreadable(file, "NPZ", error) from None
    goal = found.pop("validation_gradient", None)
    if goal is not None and not (goal.ndim == 1 and goal.dtype.kind == "f"):
        raise ArtifactError(
            f"{file} array validation_gradient is {goal.dtype} {goal.shape}; expected one vector"
        )
    rows = {name: array.shape[:1] for name, array in found.items()}
    part = Part(file, validation_gradient=goal)
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
            raise ArtifactError(
                f"{file} array {name} is {array.dtype} {array.shape}; expected numbers, one row "
                f"per sample"
            )
        first = next(iter(rows))
        if rows[name] != rows[first]:
            raise ArtifactError(
                f"{file} array {name} has {len(array)} rows and {first} {rows[first][0]}; "
                f"expected one row per sample in both"
            )
        if array.dtype == np.bool_:
            array = array.astype(np.int8)
        count = np.full(len(array), array.shape[-1], dtype=np.int64)
        part.columns[name] = Lists(array.ravel(), count) if array.ndim == 2 else array
    return part


def jsonl(file: Path, wanted: Collection[str]) -> Part:
    """Read the wanted keys of one JSON object per line. A null is NaN or an empty list."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with file.open("rb") as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ArtifactError(f"{file} line {number} is not JSON; correct the line") from None
            if not isinstance(row, dict):
                raise ArtifactError(f"{file} line {number} is {_shown(row)}; expected an object")
            rows.append(row)
            lines.append(number)
    part = Part(file, lines=lines)
    names = {name for row in rows for name in row}
    for name in [name for name in wanted if name in names]:
        for at, row in enumerate(rows):
            if name not in row and name not in SCREEN:
                raise part.refuse(at, name, "missing", "a value, as in other lines")
        part.columns[name] = _from_json(part, name, [row.get(name) for row in rows])
    return part


def _from_json(part: Part, name: str, values: list[Any]) -> NDArray | Lists:
    listed = any(isinstance(value, list) for value in values)
    flat: list[float] = []
    for row, value in enumerate(values):
        if listed and not isinstance(value, list | None):
            raise part.refuse(row, name, _shown(value), "a list, as in other lines")
        for number in (value or []) if listed else [value]:
            if number is None and not listed and name != "sample_id":
                number = float("nan")
            if not _is_number(number, boolean=name == "screened"):
                raise part.refuse(row, name, _shown(number), "a number")
            flat.append(number)
    whole = all(isinstance(number, int) for number in flat)
    array = np.array(flat, dtype=np.int64 if whole else np.float64)
    if not listed:
        return array
    return Lists(array, np.array([len(value or []) for value in values], dtype=np.int64))


def _is_number(value: object, *, boolean: bool) -> bool:
    if isinstance(value, bool):
        return boolean
    return isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value)[:40]


def _unreadable(file: Path, kind: str, error: Exception) -> ArtifactError:
    lines = str(error).splitlines() or [type(error).__name__]
    return ArtifactError(f"{file} cannot be read as {kind}: {lines[0]}")


READERS: dict[str, Callable[[Path, Collection[str]], Part]] = {
    ".parquet": parquet,
    ".jsonl": jsonl,
    ".ndjson": jsonl,
    ".npz": npz,
}
"""File name suffix -> reader."""
