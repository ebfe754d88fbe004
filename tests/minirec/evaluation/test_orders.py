"""Other orders of a history: the figures by hand, and what cannot have an effect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.corpus.table import Sample
from minirec.evaluation.orders import (
    kendall_tau,
    mean_direction,
    order_figures,
    orders_of,
    overlap,
    rise,
    slot_profile,
)
from minirec.rl.ranker import Ranker


def test_two_lists_by_hand():
    """(a, b, c, d) and (b, a, c, d): five pairs of six are in the same order."""
    assert kendall_tau([[2, 1, 3, 4]]).tolist() == pytest.approx([4 / 6])
    assert overlap([[0]], [[1]]).tolist() == [0]
    assert overlap([[0, 1]], [[1, 0]]).tolist() == [1]
    assert kendall_tau([[4, 3, 2, 1], [1, 5, 7, 9]]).tolist() == [-1, 1]
    assert kendall_tau([[1, 1]]).tolist() == [0]


def test_the_change_of_ndcg():
    """Rank 1 becomes 3: 0.5 instead of 1."""
    found = order_figures(
        [[[0, 1], [1, 0]]], [[[2, 1]]], [[1, 3]], users=np.zeros(1, np.int64), slots=[[1.0], []]
    )
    assert found["ndcg_change"] == {"mean": -0.5, "low": -0.5, "high": -0.5}
    assert (found["overlap@2"], found["tau"], found["slots"]) == (1, -1, [1.0])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.integers(0, 9),
    st.data(),
    st.integers(0, 3),
)
def test_orders_keep_the_last_events_and_lose_none(history, keep, data, orders):
    fitting = data.draw(st.integers(1, len(history)))
    first = len(history) - fitting
    found = orders_of(history, fitting=fitting, orders=orders, keep=keep, seed=1)
    assert len(found) == orders
    for order in found:
        assert sorted(order) == list(range(first, len(history)))
        kept = min(keep, fitting)
        assert order[fitting - kept :] == list(range(len(history) - kept, len(history)))
    assert found == orders_of(history, fitting=fitting, orders=orders, keep=keep, seed=1)


def test_a_profile_shows_a_slot_and_no_event():
    """Two events in both orders. Event 0 is always liked more, and slot 1 adds a half."""
    events = np.array([[0, 1], [1, 0]])
    liked = np.array([3.0, 1.0])[events]
    assert slot_profile(liked, events).tolist() == [0, 0]
    profile = slot_profile(liked + [0, 0.5], events)
    assert profile.tolist() == pytest.approx([-1, 1])


def test_the_mean_of_equal_states_is_their_direction():
    hidden = torch.tensor([[[3.0, 4.0], [6.0, 8.0]]])
    assert mean_direction(hidden).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


@given(st.permutations(range(12)))
def test_the_order_of_the_candidates_cannot_change_a_rank(order):
    """The catalogue in another order, with the same items: the ranks and lists are the same."""
    generator = torch.Generator().manual_seed(3)
    table = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=-1)
    hidden = torch.randn(5, 4, generator=generator)
    samples = [Sample(i, [i, 11 - i], 5 + (i > 2)) for i in range(5)]
    new = {old: place for place, old in enumerate(order)}
    moved = [Sample(s.sample_id, [new[h] for h in s.history], new[s.target]) for s in samples]
    ranks = []
    for items, asked in ((table, samples), (table[list(order)], moved)):
        ranker = Ranker(items, 0.1)
        ranks.append(ranker.rank(hidden, ranker.targets(asked)).rank.tolist())
    assert ranks[0] == ranks[1]


def test_rise_takes_the_best_again_and_again():
    """Who always chooses the largest item sorts the list, whatever its order in the prompt."""
    asked = []

    def choose(rows, listed):
        asked.append((rows, [sorted(one) for one in listed]))
        return [max(one) for one in listed]

    found = rise(choose, [[1, 5, 3], [2]], rounds=2, seeds=[7, 8])
    assert found == [[5, 3, 1], [2]]
    assert asked == [([0, 1], [[1, 3, 5], [2]]), ([0], [[1, 3]])]


def test_rise_keeps_the_order_of_what_is_left():
    assert rise(lambda rows, listed: [4], [[9, 4, 8]], rounds=1, seeds=[0]) == [[4, 9, 8]]
    assert rise(lambda rows, listed: [], [[], []], rounds=3, seeds=[0, 1]) == [[], []]


def test_rise_shuffles_by_its_seed():
    def lists(seed):
        seen = []

        def choose(rows, listed):
            seen.extend(listed)
            return [min(one) for one in listed]

        rise(choose, [list(range(9))], rounds=4, seeds=[seed])
        return seen

    assert lists(1) == lists(1) != lists(2)
