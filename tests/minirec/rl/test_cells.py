"""Sparse cells against the dense matrices that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from minirec.rl.cells import Cells
from minirec.rl.reward import excluded_mask


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(1, 9))
    numbers = draw(
        st.lists(st.sampled_from([0, 0, 1.5, -2]), min_size=rows * columns, max_size=rows * columns)
    )
    return np.array(numbers, np.float32).reshape(rows, columns)


@given(matrices(), st.data())
@settings(max_examples=200)
def test_cells_give_the_rows_and_columns_of_the_dense_matrix(matrix, data):
    whole = torch.from_numpy(matrix)
    rows, columns = matrix.shape
    for given_as in (matrix, sparse.csr_matrix(matrix), sparse.csc_matrix(matrix)):
        cells = Cells.of(given_as)
        assert torch.equal(cells.dense(), whole)
    assert torch.equal(Cells(cells.shape, cells.place).dense(), whole != 0)

    start = data.draw(st.integers(0, columns))
    stop = data.draw(st.integers(start, columns + 2))
    assert torch.equal(cells.columns(start, stop), whole[:, start:stop])

    ids = torch.tensor(data.draw(st.permutations(range(columns))))[: 1 + start]
    assert torch.equal(cells.pick(ids), whole[:, ids])

    some = st.integers(0, rows - 1) if rows else st.nothing()
    taken = torch.tensor(data.draw(st.lists(some, max_size=6)) if rows else [], dtype=torch.int64)
    assert torch.equal(cells.take(taken).dense(), whole[taken])
    assert torch.equal(cells.take(taken).columns(start, stop), whole[taken][:, start:stop])

    scores = torch.rand(matrix.shape)
    added, filled = scores.clone(), scores.clone()
    cells.add_to(added)
    cells.fill(filled, -torch.inf)
    assert torch.equal(added, scores + whole)
    assert torch.equal(filled, scores.masked_fill(whole != 0, -torch.inf))


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=9), st.integers(0, 6)), max_size=5))
def test_excluded_cells_are_those_of_the_mask(asked):
    items, target = [a for a, _ in asked], [b for _, b in asked]
    cells = Cells.excluded(items, target, catalogue=7)
    mask = excluded_mask(items, torch.tensor(target, dtype=torch.int64), items=7)
    assert torch.equal(cells.dense(), mask)


@pytest.mark.parametrize("strange", [-1, 7])
def test_an_excluded_item_outside_the_catalogue_is_refused(strange):
    with pytest.raises(ValueError, match=rf"excluded item {strange}; expected 0\.\.6"):
        Cells.excluded([[1], [strange]], [0, 0], catalogue=7)
