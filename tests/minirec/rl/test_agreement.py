"""Pseudo-targets by the majority of rollouts, and the consistency of two rollouts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirec.rl.agreement import Views, capped, consistency, divergence, info_nce, pseudo_targets

TAU = 0.5


def test_the_largest_cluster_elects_the_target():
    first = torch.tensor([[7, 7, 3, 7], [7, 3, 7, 3], [1, 2, 3, 4], [5, 5, 5, 5]])
    found = pseudo_targets(first, 0.5)
    assert found.target.tolist()[0] == 7
    assert found.agrees[0].tolist() == [True, True, False, True]
    assert found.share.tolist() == [0.75, 0.5, 0.25, 1.0]
    assert found.kept.tolist() == [True, False, False, True]  # a tie, no agreement
    assert pseudo_targets(first, 0.76).kept.tolist() == [False, False, False, True]


def test_a_share_of_exactly_the_confidence_is_kept():
    first = torch.tensor([[1, 1, 2], [4, 2, 2]])
    assert pseudo_targets(first, 2 / 3).kept.all()


groups = st.integers(1, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 4), min_size=size, max_size=size), min_size=1, max_size=6
    )
)


@given(groups, st.floats(0.01, 1), st.randoms())
def test_pseudo_targets_are_the_counted_majorities(rows, confidence, random):
    found = pseudo_targets(torch.tensor(rows), confidence)
    shuffled = [random.sample(row, len(row)) for row in rows]
    again = pseudo_targets(torch.tensor(shuffled), confidence)
    assert torch.equal(found.kept, again.kept)
    assert torch.equal(found.share, again.share)
    for place, row in enumerate(rows):
        counts = sorted(((row.count(item), item) for item in set(row)), reverse=True)
        most = counts[0][0]
        alone = len(counts) == 1 or counts[1][0] < most
        kept = alone and most / len(row) >= confidence - 1e-9
        assert bool(found.kept[place]) == kept
        assert float(found.share[place]) == pytest.approx(most / len(row))
        if kept:
            assert int(found.target[place]) == int(again.target[place]) == counts[0][1]
            assert found.agrees[place].tolist() == [item == counts[0][1] for item in row]


def test_a_bestseller_gets_no_more_than_its_share():
    weight = torch.tensor([1.0, 0.5, 0.5, 1.0, 0.75, 0.0, 0.0, 0.0])
    target = torch.tensor([7, 7, 7, 7, 2, 7, 3, 4])
    # A quarter of 8 prompts is 2, and item 7 has 3: each of its prompts keeps 2/3.
    found = capped(weight, target, most=0.25)
    assert found.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3, 0.75, 0, 0, 0])
    assert torch.equal(capped(weight, target, most=1.0), weight)
    # At least one prompt may always count whole.
    assert capped(weight, target, most=0.01)[target == 7].sum().item() == pytest.approx(1)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=12),
    st.floats(0.05, 1),
)
def test_a_cap_lowers_only_what_is_above_it(pairs, most):
    target, weight = (torch.tensor(column) for column in zip(*pairs, strict=True))
    weight = weight.double()
    found = capped(weight, target, most=most)
    allowed = max(1.0, most * len(pairs))
    for item in target.unique():
        own = target == item
        before, after = float(weight[own].sum()), float(found[own].sum())
        assert after == pytest.approx(min(before, allowed))
        assert torch.allclose(found[own] * before, weight[own] * after)
    back = torch.arange(len(pairs) - 1, -1, -1)
    assert torch.allclose(capped(weight[back], target[back], most=most), found[back])


def test_the_divergence_of_two_coins():
    p = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
    there = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    back = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert (there, back) == (pytest.approx(0.510826, abs=1e-6), pytest.approx(0.368064, abs=1e-6))
    assert float(divergence(p.log())) == pytest.approx(0.439445, abs=1e-6)
    assert float(divergence(p.flip(1).log())) == pytest.approx(0.439445, abs=1e-6)
    assert float(divergence(p[:, [0, 0]].log())) == 0


def test_excluded_candidates_have_no_part_and_no_gradient():
    scores = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 1.0, -4.0]]], requires_grad=True)
    excluded = torch.tensor([False, False, True])
    log_p = scores.masked_fill(excluded, -torch.inf).log_softmax(2)
    found = divergence(log_p)
    found.sum().backward()
    without = divergence(scores.detach()[..., :2].log_softmax(2))
    assert torch.allclose(found, without)
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[..., 2] == 0).all()
    assert scores.grad[..., :2].abs().sum() > 0


def unit(*rows: tuple[float, float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def test_info_nce_of_two_prompts_by_hand():
    # Each prompt has two equal views, orthogonal to those of the other one.
    pair = torch.stack([unit((1, 0), (1, 0)), unit((0, 1), (0, 1))])
    others = ~torch.eye(2, dtype=torch.bool)
    found = info_nce(pair, pair, others, temperature=TAU)
    by_hand = -math.log(math.exp(2) / (math.exp(2) + math.exp(0)))
    assert found.tolist() == pytest.approx([by_hand, by_hand])


def test_equal_states_are_not_optimal():
    """All states alike: no divergence, and log K; far below it where prompts differ."""
    k = 4
    alike = unit(*[(1, 0)] * (2 * k)).view(k, 2, 2)
    apart = unit((1, 0), (1, 0), (0, 1), (0, 1), (-1, 0), (-1, 0), (0, -1), (0, -1)).view(k, 2, 2)
    ids = torch.arange(k)
    log_p = torch.zeros(k, 2, 3, dtype=torch.float64).log_softmax(2)
    collapsed, different = (
        consistency(log_p, states, ids, Views(ids, states), temperature=TAU)
        for states in (alike, apart)
    )
    assert collapsed.tolist() == pytest.approx([math.log(k)] * k)
    assert (different < 0.4).all()


def test_a_prompt_has_the_same_loss_in_any_micro_batch():
    torch.manual_seed(0)
    states = torch.nn.functional.normalize(torch.randn(6, 2, 5), dim=-1)
    log_p = torch.randn(6, 2, 4).log_softmax(2)
    ids = torch.tensor([4, 2, 9, -3, 5, 1])
    views = Views(ids, states)
    whole = consistency(log_p, states, ids, views, temperature=TAU)
    parts = [
        consistency(log_p[part], states[part], ids[part], views, temperature=TAU)
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert torch.allclose(torch.cat(parts), whole)


def test_a_prompt_that_comes_twice_is_not_told_apart_from_itself():
    states = unit((1, 0), (1, 0), (1, 0), (1, 0), (0, 1), (0, 1)).view(3, 2, 2)
    ids, log_p = torch.tensor([5, 5, 6]), torch.zeros(3, 2, 2).log_softmax(2)
    found = consistency(log_p, states, ids, Views(ids, states), temperature=TAU)
    two = math.log(1 + math.exp(-2))
    assert found.tolist() == pytest.approx([two, two, math.log(1 + 2 * math.exp(-2))])
