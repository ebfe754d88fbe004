"""Matrices over prompts and items of which few cells are set: excluded items, prior scores.

For a million items and 64 prompts, a dense mask has 64 MB and dense scores have 256 MB. The cells
that are set are a few numbers for each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """A matrix (B, V) with E cells that are set; the others are 0, or False.

    place: (E,) int64, row * V + column of each cell, ascending, none twice. value: (E,) float32;
    None: the cells are True.
    """

    shape: tuple[int, int]
    place: Tensor
    value: Tensor | None = None

    @classmethod
    def excluded(
        cls, items: Sequence[Sequence[int]], target: Sequence[int], *, catalogue: int
    ) -> Cells:
        """The excluded items of B prompts. The target (B,) of a prompt is never excluded.

        Raises:
            ValueError: an item is outside 0..`catalogue` - 1.
        """
        lengths = [len(one) for one in items]
        column = np.fromiter(chain.from_iterable(items), dtype=np.int64, count=sum(lengths))
        if len(strange := column[(column < 0) | (column >= catalogue)]):
            raise ValueError(f"excluded item {strange[0]}; expected 0..{catalogue - 1}")
        row = np.repeat(np.arange(len(lengths)), lengths)
        other = column != np.asarray(target, dtype=np.int64)[row]
        place = np.unique(row[other] * catalogue + column[other])
        return cls((len(lengths), catalogue), torch.from_numpy(place))

    @classmethod
    def of(cls, values: Any) -> Cells:
        """The cells of a scipy matrix or a dense array (B, V) that are not 0."""
        matrix = sparse.csr_matrix(values, dtype=np.float32, copy=True)
        matrix.sum_duplicates()
        rows, columns = matrix.shape
        row = np.repeat(np.arange(rows), np.diff(matrix.indptr))
        place = torch.from_numpy(row * columns + matrix.indices.astype(np.int64))
        return cls((rows, columns), place, torch.from_numpy(matrix.data))

    def to(self, device: torch.device | str) -> Cells:
        value = None if self.value is None else self.value.to(device)
        return Cells(self.shape, self.place.to(device), value)

    def take(self, rows: Tensor) -> Cells:
        """The rows (n,) int64 of the matrix, in this order; a row may come again."""
        width = self.shape[1]
        row, at = self._between(rows * width, rows * width + width)
        place = self.place[at] + (row - rows[row]) * width
        return Cells((len(rows), width), place, None if self.value is None else self.value[at])

    def columns(self, start: int, stop: int) -> Tensor:
        """The columns start..stop - 1, dense: (B, stop - start) float32 or bool."""
        rows, width = self.shape
        first = torch.arange(rows, device=self.place.device) * width
        row, at = self._between(first + start, first + min(stop, width))
        found = self._zeros(rows, min(stop, width) - start)
        found[row, self.place[at] - first[row] - start] = self._of(at)
        return found

    def dense(self) -> Tensor:
        """The whole matrix (B, V)."""
        return self.columns(0, self.shape[1])

    def pick(self, ids: Tensor) -> Tensor:
        """The columns `ids` (C,) int64, none twice, dense: (B, C)."""
        rows, width = self.shape
        found = self._zeros(rows, len(ids))
        ascending, order = ids.sort()
        row, column = self.place // width, self.place % width
        near = torch.searchsorted(ascending, column).clamp(max=len(ids) - 1)
        at = (ascending[near] == column).nonzero()[:, 0]
        found[row[at], order[near[at]]] = self._of(at)
        return found

    def add_to(self, scores: Tensor) -> None:
        """Add the values to dense scores (B, V), in place."""
        assert self.value is not None
        flat = scores.view(-1)
        flat[self.place] += self.value.to(flat)

    def fill(self, scores: Tensor, value: float) -> None:
        """Set the cells of dense scores (B, V) to a value, in place."""
        scores.view(-1)[self.place] = value

    def _zeros(self, rows: int, columns: int) -> Tensor:
        kind = torch.bool if self.value is None else self.value.dtype
        return torch.zeros((rows, columns), dtype=kind, device=self.place.device)

    def _of(self, at: Tensor) -> Tensor:
        if self.value is None:
            return torch.ones_like(at, dtype=torch.bool)
        return self.value[at]

    def _between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The cells whose place is in low[i]..high[i] - 1, for each i: i, and the cell."""
        first = torch.searchsorted(self.place, low)
        count = torch.searchsorted(self.place, high) - first
        which = torch.repeat_interleave(count)
        begin = first - (count.cumsum(0) - count)
        return which, torch.arange(len(which), device=which.device) + begin[which]
