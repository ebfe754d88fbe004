"""Token lists in blocks of similar length: one block is one forward pass.

The blocks depend only on the lengths. So the bytes of a result do not depend on which process
computes which block.
"""

from __future__ import annotations

from collections.abc import Sequence

BLOCK_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Most tokens of a block, including padding, by type of device. A longer list is a block of its
own. A GPU needs more tokens to be busy; on a CPU, larger blocks leave the cache."""
SMALLEST = 512
"""A block is not divided below about this number of tokens, for the sake of workers."""
EVEN = 8
"""Blocks for several workers come in multiples of this number, which 2, 4 and 8 workers share
evenly."""


def blocks(lengths: Sequence[int], *, most: int, multiple: int = 1) -> list[list[int]]:
    """The rows 0..N-1 in blocks, ascending by length.

    The number of blocks is the smallest that `most` allows, then rounded up to a multiple, unless
    the blocks would become smaller than `SMALLEST`. Blocks have about equally many tokens.

    Args:
        lengths: (N,) tokens of each row.
        most: tokens of a block, counting each row as long as the longest of its block.
        multiple: see above.
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    ascending = [lengths[row] for row in order]
    fewest = len(_starts(ascending, most))
    rounded = multiple * -(-fewest // multiple)
    count = max(fewest, min(rounded, sum(lengths) // SMALLEST))
    low, high = max(1, ascending[0]), most
    while low < high:  # the smallest limit that gives no more blocks
        middle = (low + high) // 2
        if len(_starts(ascending, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    starts = _starts(ascending, high)
    ends = [*starts[1:], len(order)]
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _starts(ascending: Sequence[int], most: int) -> list[int]:
    """The first row of each block, if each block takes as many rows as fit."""
    starts = [0]
    for row, length in enumerate(ascending):
        if row > starts[-1] and (row + 1 - starts[-1]) * length > most:
            starts.append(row)
    return starts
