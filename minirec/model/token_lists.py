"""Token lists of a whole catalogue in two arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class TokenLists(Sequence[list[int]]):
    """V token lists, 4 bytes a token. As Python lists they need ten times as much."""

    def __init__(self, lists: Iterable[Sequence[int]]):
        flat, ends = array("i"), array("q", [0])
        for one in lists:
            flat.extend(one)
            ends.append(len(flat))
        self._flat, self._ends = np.array(flat, np.int32), np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> list[int]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[int]]: ...
    def __getitem__(self, at: int | slice) -> list[int] | list[list[int]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        found: list[int] = self._flat[self._ends[i] : self._ends[i + 1]].tolist()
        return found

    @property
    def tokens(self) -> int:
        """Number of all tokens."""
        return len(self._flat)
