"""The place of a row in the files as one number, which orders all rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from minirec.corpus.files.finding import natural
from minirec.corpus.schema import REJECTED

LINE_BITS = 40
"""A file has fewer than 2^40 lines."""


class Places:
    """Orders rows by file, in the natural order of the paths (part-2 before part-10), and line.

    The order of a row is ``file << LINE_BITS | line``.
    """

    def __init__(self, paths: Iterable[str]):
        self.paths = sorted(set(paths), key=natural)
        self._file = {path: number for number, path in enumerate(self.paths)}

    def orders(self, file: pa.ChunkedArray | pa.Array, line: pa.ChunkedArray) -> np.ndarray:
        """(N,) int64 of paths and line numbers."""
        if not pa.types.is_dictionary(file.type):
            file = file.dictionary_encode()
        if isinstance(file, pa.ChunkedArray):
            file = file.unify_dictionaries().combine_chunks()
        numbers = np.array([self._file[path] for path in file.dictionary.to_pylist()], np.int64)
        # A pseudo-row for an unreadable file has the line -1.
        return (numbers[file.indices.to_numpy()] << LINE_BITS) | np.maximum(line.to_numpy(), 0)

    def path(self, order: int) -> str:
        """The file of a row."""
        return self.paths[order >> LINE_BITS]

    def place(self, order: int) -> str:
        """``file:line`` of a row."""
        return f"{self.path(order)}:{order & (1 << LINE_BITS) - 1}"

    def rejected(self, rows: pa.Table) -> pa.Table:
        """Rejected rows (`rejects.ROWS`) with files and lines, `REJECTED`."""
        order = rows["order"].to_numpy()
        paths = pa.array(self.paths, pa.string()).take(pa.array(order >> LINE_BITS))
        line = pa.array(order & ((1 << LINE_BITS) - 1))
        return pa.table([rows["reason"], paths, line, rows["text"]], schema=REJECTED)
