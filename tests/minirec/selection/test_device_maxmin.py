"""MaxMin with products on a device of torch picks what MaxMin picks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.selection.device import maxmin_on
from minirec.selection.diversity import maxmin

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
        ],
    ),
]


def pool(rows, width, *, common, seed):
    """Embeddings with a common part: the larger it is, the closer are the distances."""
    rng = np.random.default_rng(seed)
    shared = common * rng.standard_normal(width, dtype=np.float32)
    return shared + rng.standard_normal((rows, width), dtype=np.float32), rng.random(rows)


def same(device, embeddings, scores, budget, block=256):
    ours = maxmin_on(device, embeddings, scores=scores, budget=budget, block=block)
    expected = maxmin(embeddings, scores=scores, budget=budget, block=block)
    assert ours.indices.tolist() == expected.indices.tolist()
    assert ours.novelty == pytest.approx(expected.novelty, abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("common", [0, 10])
def test_the_picks_are_those_of_maxmin(device, common):
    embeddings, scores = pool(3000, 96, common=common, seed=1)
    same(device, embeddings, scores, 700)


@pytest.mark.parametrize("device", DEVICES)
def test_pools_of_several_pieces(device):
    embeddings, scores = pool(40_000, 8, common=1, seed=2)
    same(device, embeddings, scores, 50, block=16)


@settings(max_examples=40)
@given(
    values=st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any), min_size=2),
    block=st.integers(1, 5),
    data=st.data(),
)
def test_ties_and_equal_rows(values, block, data):
    """Small integers give equal rows, opposite rows, and scores of 0."""
    scores = data.draw(st.lists(st.integers(0, 2), min_size=len(values), max_size=len(values)))
    budget = data.draw(st.integers(1, len(values)))
    same("cpu", np.array(values, dtype=np.float32), np.array(scores, float), budget, block)


def test_rounded_products_are_refused():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ValueError, match="is high; MaxMin needs"):
            maxmin_on("cpu", np.eye(3, dtype=np.float32), scores=np.ones(3), budget=2)
    finally:
        torch.set_float32_matmul_precision(before)
