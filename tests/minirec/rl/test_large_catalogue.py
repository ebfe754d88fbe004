"""A ranking or a loss in blocks is that of the whole catalogue at once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.rl import grpo
from minirec.rl.candidates import Candidates, beside_rest, catalogue, frozen_catalogue
from minirec.rl.cells import Cells
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.rest import log_sum_exp

EXACT = [list(row) for row in np.eye(4).tolist()] + [
    [a / 2, b / 2, c / 2, d / 2] for a in (1, -1) for b in (1, -1) for c in (1, -1) for d in (1, -1)
]
"""Vectors of length 1 whose products are exact in float32, so that ties are exact."""
VECTORS = st.sampled_from(EXACT)


def by_hand(hidden, table, target, excluded, prior):
    """The rank of a target: 1 + the rivals with a score that is not lower."""
    scores = [sum(a * b for a, b in zip(hidden, row, strict=True)) / 0.5 for row in table]
    scores = [s + p for s, p in zip(scores, prior, strict=True)]
    rivals = [v for v in range(len(table)) if v != target and v not in excluded]
    return 1 + sum(scores[v] >= scores[target] for v in rivals)


@st.composite
def rankings(draw):
    """A table, and prompts with hidden states, target, excluded items and prior."""
    table = draw(st.lists(VECTORS, min_size=1, max_size=12))
    items = st.integers(0, len(table) - 1)
    row = st.tuples(
        st.lists(VECTORS, min_size=2, max_size=2),
        items,
        st.lists(items, max_size=6),
        st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=len(table), max_size=len(table)),
    )
    return table, draw(st.lists(row, min_size=1, max_size=5))


@given(rankings(), st.integers(1, 80), st.booleans())
@settings(max_examples=200)
def test_a_ranking_does_not_depend_on_the_scores_in_memory(case, most, with_prior):
    table, rows = case
    asked = [SimpleNamespace(target=t, excluded=e, following=[]) for _, t, e, _ in rows]
    scores = np.array([p for *_, p in rows], np.float32)
    prior = (lambda _: scores) if with_prior else None
    ranker = Ranker(torch.tensor(table, dtype=torch.float32), 0.5, prior)
    hidden = torch.tensor([h for hidden, *_ in rows for h in hidden], dtype=torch.float32)
    found = ranker.rank(hidden, ranker.targets(asked), scores=most)
    expected = [
        by_hand(h, table, t, e, p if with_prior else [0.0] * len(table))
        for hidden, t, e, p in rows
        for h in hidden
    ]
    assert found.rank.tolist() == expected
    whole = ranker.rank(hidden, ranker.targets(asked))
    assert torch.allclose(found.probability, whole.probability, rtol=1e-6)


def random_case(seed, *, prompts=4, items=23, d=6, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    table = F.normalize(torch.randn(items, d, generator=draw, dtype=dtype), dim=-1)
    hidden = torch.randn(prompts, d, generator=draw, dtype=dtype, requires_grad=True)
    target = torch.randint(0, items, (prompts,), generator=draw)
    excluded = torch.randint(0, items, (prompts, 5), generator=draw).tolist()
    scores = torch.rand(prompts, items, generator=draw) * (
        torch.rand(prompts, items, generator=draw) < 0.3
    )
    targets = Targets(
        target,
        Cells.excluded(excluded, target.tolist(), catalogue=items),
        Cells.of(scores.numpy()),
    )
    return table, hidden, targets


def dense(table, hidden, targets, without):
    scores = F.normalize(hidden, dim=-1) @ table.T / 0.1 + targets.prior.dense()
    scores = scores.masked_fill(targets.excluded.dense(), -torch.inf)
    return scores.index_fill(1, without, -torch.inf)


@pytest.mark.parametrize("most", [1, 12, 40, 10**6])
def test_the_rest_has_the_value_and_gradient_of_the_dense_scores(most):
    table, hidden, targets = random_case(0)
    without = torch.tensor([3, 22, 0, 11])
    expected = dense(table, hidden, targets, without).logsumexp(1)
    found = log_sum_exp(
        F.normalize(hidden, dim=-1),
        table=table,
        without=without,
        targets=targets,
        temperature=0.1,
        scores=most,
    )
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12)
    one, other = (torch.autograd.grad((weight * x).sum(), hidden)[0] for x in (found, expected))
    assert torch.allclose(one, other, atol=1e-11)


def test_a_row_without_any_other_item_has_no_rest():
    table, hidden, _ = random_case(1, prompts=2, items=3)
    nothing = Cells((2, 3), torch.zeros(0, dtype=torch.int64))
    found = log_sum_exp(
        F.normalize(hidden, dim=-1),
        table=table,
        without=torch.tensor([0, 1, 2]),
        targets=Targets(torch.tensor([0, 1]), nothing),
        temperature=0.1,
    )
    assert found.tolist() == [-torch.inf, -torch.inf]
    (gradient,) = torch.autograd.grad(torch.logaddexp(found, torch.zeros(2)).sum(), hidden)
    assert gradient.tolist() == [[0.0] * 6] * 2


def loss_of(rivals, hidden, advantage):
    return grpo.item_loss(
        hidden,
        candidates=rivals.vectors,
        target=rivals.target,
        excluded=rivals.excluded,
        advantage=advantage,
        temperature=0.1,
        clip=grpo.Clip(),
        offset=rivals.offset,
        rest=rivals.rest,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(5))
def test_the_item_loss_over_a_large_catalogue_is_that_of_a_small_one(seed, dtype):
    """Same log p, and same gradients by the hidden states and by the vectors of the step."""
    table, hidden, targets = random_case(seed, dtype=dtype)
    others = torch.tensor([seed, seed + 7])
    ids = torch.cat([targets.target, others]).unique()
    vectors = table[ids].clone().requires_grad_(True)
    candidates = Candidates(ids, vectors, table)
    advantage = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=dtype)
    found = []
    for rivals in (catalogue(candidates, targets), beside_rest(candidates, targets)):
        total, log_p = loss_of(rivals, hidden, advantage)
        found.append((log_p, *torch.autograd.grad(total, (hidden, vectors))))
    assert found[0][0].min() < -0.1
    close = {torch.float64: 1e-11, torch.float32: 1e-5}[dtype]
    for small, large in zip(*found, strict=True):
        assert torch.allclose(small, large, atol=close * max(1.0, float(small.abs().max())))


def test_frozen_items_give_the_same_loss_beside_the_rest():
    table, hidden, targets = random_case(7)
    advantage = torch.ones(4, dtype=torch.float64)
    ids = targets.target.unique()
    rivals = beside_rest(Candidates(ids, table[ids], table), targets)
    total, log_p = loss_of(frozen_catalogue(table, targets), hidden, advantage)
    (expected,) = torch.autograd.grad(total, hidden)
    total, found = loss_of(rivals, hidden, advantage)
    assert torch.allclose(found, log_p, atol=1e-12)
    assert torch.allclose(torch.autograd.grad(total, hidden)[0], expected, atol=1e-11)
