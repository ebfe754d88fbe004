"""Losses of drawn lists: a case by hand, the sum over all rankings, and what must not matter."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.rl.ranking import (
    draw_lists,
    list_rewards,
    log_probability,
    pairs,
    plackett_luce,
    ranking_loss,
    uniforms,
)
from minirec.rl.reward import ndcg

ALL = list(itertools.permutations(range(3)))
SCORES = [math.log(2), 0.0, 0.0]


def probability(ranking, depth=3):
    """Of a ranking in the model with weights 2, 1, 1, factor by factor."""
    weights, left, found = [2.0, 1.0, 1.0], 4.0, 1.0
    for item in ranking[:depth]:
        found, left = found * weights[item] / left, left - weights[item]
    return found


def gain(ranking):
    """NDCG@2 of item 0."""
    return {0: 1.0, 1: 1 / math.log2(3), 2: 0.0}[ranking.index(0)]


def scores(values=SCORES):
    return torch.tensor([values], dtype=torch.float64, requires_grad=True)


def test_log_probability_is_that_of_drawing_item_after_item():
    for depth in (1, 2, 3):
        lists = torch.tensor([[r[:depth] for r in ALL]])
        found = log_probability(scores(), lists)[0]
        assert found.tolist() == pytest.approx([math.log(probability(r, depth)) for r in ALL])
    by_hand = log_probability(scores(), torch.tensor([[[0, 1], [1, 0]]]))
    assert by_hand[0].tolist() == pytest.approx([-1.386294, -1.791759], abs=1e-6)


def test_the_losses_of_two_lists_by_hand():
    lists = torch.tensor([[[0, 1], [1, 0]]])
    rewards = list_rewards(lists, relevant=torch.tensor([[0]]), reward=ndcg, cutoff=2)
    assert rewards[0].tolist() == pytest.approx([1, 0.630930], abs=1e-6)
    log_prob = log_probability(scores(), lists)
    loss = plackett_luce(log_prob, rewards.double(), floor=1e-3, scale=True)
    assert loss.item() == pytest.approx(-0.202733, abs=1e-6)
    assert pairs(log_prob, rewards.double(), floor=1e-3, scale=True).item() == pytest.approx(
        -0.149645, abs=1e-6
    )


def exact_gradient():
    """Sum over the six rankings of p R grad log p; grad log p = sum_j (one at j - softmax)."""
    total = np.zeros(3)
    for ranking in ALL:
        slope, weights = np.zeros(3), np.array([2.0, 1.0, 1.0])
        for item in ranking:
            slope[item] += 1
            slope -= weights / weights.sum()
            weights[item] = 0
            if not weights.any():
                break
        total += probability(ranking) * gain(ranking) * slope
    return total


def test_the_expected_reward_and_its_gradient_are_the_sums_over_all_rankings():
    assert sum(probability(r) * gain(r) for r in ALL) == pytest.approx(0.710310, abs=1e-6)
    assert exact_gradient() == pytest.approx([0.214948, -0.107474, -0.107474], abs=1e-6)


@pytest.mark.parametrize(("kind", "times"), [(plackett_luce, 1), (pairs, 2)])
def test_the_expected_gradient_of_the_losses_is_exact(kind, times):
    """All pairs of rankings, each with its probability. The pairwise one has twice the length."""
    s = scores()
    both = list(itertools.product(ALL, repeat=2))
    lists = torch.tensor(both)
    log_prob = log_probability(s.expand(len(both), 3), lists)
    rewards = torch.tensor([[gain(r) for r in pair] for pair in both], dtype=torch.float64)
    weight = torch.tensor([probability(a) * probability(b) for a, b in both], dtype=torch.float64)
    (weight * kind(log_prob, rewards, floor=1e-3, scale=False)).sum().backward()
    assert (-s.grad[0]).tolist() == pytest.approx((times * exact_gradient()).tolist(), abs=1e-9)


def test_a_prefix_has_the_gradient_of_whole_rankings_if_the_reward_reads_only_it():
    grads = []
    for depth in (2, 3):
        s = scores()
        log_prob = log_probability(s, torch.tensor([[r[:depth] for r in ALL]]))[0]
        sum(probability(r) * gain(r) * log_prob[i] for i, r in enumerate(ALL)).backward()
        grads.append(s.grad[0].tolist())
    assert grads[0] == pytest.approx(grads[1])


def test_lists_are_drawn_with_the_probabilities_of_the_model():
    count = 40_000
    drawn = draw_lists(
        scores().float(), uniforms=uniforms(3, [5], samples=count, candidates=3), depth=2
    )[0]
    for ranking in ALL:
        share = (drawn == torch.tensor(ranking[:2])).all(1).float().mean().item()
        assert share == pytest.approx(probability(ranking, 2), abs=0.01)


def test_two_relevant_items_earn_their_dcg_over_the_best():
    lists = torch.tensor([[[7, 1, 2, 8], [7, 8, 1, 2], [1, 2, 3, 4]]])
    found = list_rewards(lists, relevant=torch.tensor([[7, 8, -1]]), reward=ndcg, cutoff=4)[0]
    assert found.tolist() == pytest.approx([1.430677 / 1.630930, 1, 0], abs=1e-6)


def test_a_sample_has_the_same_lists_in_any_micro_batch():
    whole = uniforms(1, [4, 9, 2], samples=2, candidates=5)
    assert torch.equal(whole[1:2], uniforms(1, [9], samples=2, candidates=5))
    assert not torch.equal(whole, uniforms(2, [4, 9, 2], samples=2, candidates=5))
    assert ((whole > 0) & (whole < 1)).all()


def loss_of(values, target=0, seed=1, **changes):
    s = torch.tensor([values], requires_grad=True)
    settings = {"depth": 3, "reward": ndcg, "cutoff": 3, "kind": "plackett_luce"}
    found = ranking_loss(
        s,
        relevant=torch.tensor([[target]]),
        uniforms=uniforms(seed, [0], samples=8, candidates=len(values)),
        floor=1e-3,
        scale=True,
        **settings | changes,
    )
    found.loss.sum().backward()
    return found, s.grad[0]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    st.integers(0, 2**20),
    st.sampled_from(["plackett_luce", "pairs"]),
    st.data(),
)
def test_gradients_are_finite_and_excluded_candidates_get_none(values, seed, kind, data):
    out = data.draw(st.sets(st.integers(1, len(values) - 1)))
    found, grad = loss_of(
        [-math.inf if i in out else v for i, v in enumerate(values)], seed=seed, kind=kind
    )
    assert torch.isfinite(found.loss).all() and torch.isfinite(grad).all()
    assert all(grad[i] == 0 for i in out)
    # The model is a softmax at each place: adding a constant to all scores changes nothing.
    assert grad.sum().item() == pytest.approx(0, abs=1e-4)


def test_the_target_gains_where_lists_differ_and_nothing_moves_where_they_do_not():
    _, grad = loss_of([0.0] * 6)
    assert grad[0] < 0
    alike, none = loss_of([50.0, 0.0, 0.0])
    assert alike.rewards.tolist() == [[1.0] * 8]
    assert none.abs().max() < 1e-6
