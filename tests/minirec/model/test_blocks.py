"""Blocks of rows of similar length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minirec.model.blocks import EVEN, SMALLEST, blocks

LENGTHS = st.lists(st.integers(1, 60), max_size=60)


def padded(block, lengths):
    return len(block) * max(lengths[row] for row in block)


def test_equally_long_rows_give_equal_blocks():
    # 356 x 20 tokens: two blocks of at most 4,096 tokens, rounded up to eight.
    sizes = [len(block) for block in blocks([20] * 356, most=4096, multiple=8)]
    assert sizes == [45] * 7 + [41]
    assert [len(block) for block in blocks([20] * 356, most=4096)] == [178, 178]


def test_few_short_rows_are_one_block():
    assert blocks([5, 3, 4], most=4096, multiple=8) == [[1, 2, 0]]
    assert blocks([], most=9) == []


def test_a_row_that_is_too_long_is_alone():
    assert blocks([2, 9, 2, 2], most=6) == [[0, 2, 3], [1]]


@given(LENGTHS, st.integers(1, 200))
def test_each_row_is_in_one_block_within_the_limit(lengths, most):
    found = blocks(lengths, most=most)
    assert sorted(row for block in found for row in block) == list(range(len(lengths)))
    assert all(padded(block, lengths) <= most or len(block) == 1 for block in found)
    ascending = [lengths[row] for block in found for row in block]
    assert ascending == sorted(lengths)


@given(LENGTHS, st.integers(60, 200))
def test_the_largest_block_is_as_small_as_their_number_allows(lengths, most):
    """Compared with all limits below, tried one by one."""
    found = blocks(lengths, most=most)
    if not found:
        return
    largest = max(padded(block, lengths) for block in found)
    smaller = [limit for limit in range(60, largest) if len(greedy(lengths, limit)) <= len(found)]
    assert not smaller


def greedy(lengths, limit):
    found = [[]]
    for length in sorted(lengths):
        if found[-1] and length * (len(found[-1]) + 1) > limit:
            found.append([])
        found[-1].append(length)
    return found


@given(st.lists(st.integers(1, 60), min_size=400, max_size=600))
def test_workers_share_the_blocks_evenly(lengths):
    found = blocks(lengths, most=4096, multiple=EVEN)
    if sum(lengths) >= EVEN * SMALLEST:
        assert len(found) % EVEN in (0, EVEN - 1)  # the last block may be left over
