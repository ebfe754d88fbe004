"""A table in parts: in the memory of one process, or in those of a cluster.

`prepare` is written once over `Parts`. A function of a part is pure and gets the whole part. So the
result does not depend on the number of parts, nor on where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from minirec.corpus.events import encode

T = TypeVar("T")
BATCH = 65_536
"""Rows of a batch of `Parts.ordered`."""


class Parts(Protocol):
    """Tables of one schema. All rows of a user are in one part, in any order."""

    def each(self, function: Callable[[pa.Table], T]) -> Iterator[T]:
        """The result for each part, in any order. Few of them are in memory at a time."""

    def changed(self, function: Callable[[pa.Table], pa.Table]) -> Parts:
        """The parts that `function` makes of these."""

    def computed(self) -> Parts:
        """The same parts, computed now and once."""

    def ordered(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of all parts, ascending by columns without nulls, in batches of any size."""


class LocalParts:
    """Parts in the memory of this process."""

    def __init__(self, tables: Sequence[pa.Table]):
        self._tables = tuple(tables)

    def each(self, function: Callable[[pa.Table], T]) -> Iterator[T]:
        """See `Parts`."""
        return map(function, self._tables)

    def changed(self, function: Callable[[pa.Table], pa.Table]) -> LocalParts:
        """See `Parts`."""
        return LocalParts([function(table) for table in self._tables])

    def computed(self) -> LocalParts:
        """See `Parts`."""
        return self

    def ordered(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Parts`."""
        table = pa.concat_tables(self._tables)
        keys = [_numbers(table[name]) for name in columns]
        order = np.lexsort(keys[::-1])
        for start in range(0, len(table), BATCH):
            yield table.take(pa.array(order[start : start + BATCH]))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers (N,) that sort as the values do."""
    return encode(column)[0] if pa.types.is_string(column.type) else column.to_numpy()
