"""Comparisons of rollouts: by hand, with noise, and under increasing maps of the reward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.rl import grpo
from minirec.rl.comparison import comparison_rewards, uniforms_of


def shares(rewards):
    return comparison_rewards(torch.tensor(rewards), noise=0.0, uniforms=None)


def test_by_hand():
    found = shares([[0.9, 0.1, 0.1, 0.5]])
    # 0.1 ties with 0.1 and loses two comparisons: 1/2 of 3.
    assert found[0].tolist() == pytest.approx([1, 1 / 6, 1 / 6, 2 / 3])
    advantage = grpo.advantages(found)[0].tolist()
    assert advantage == pytest.approx([1.4142, -0.9428, -0.9428, 0.4714], abs=1e-4)


@given(
    st.integers(2, 6).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-8, 8), min_size=size, max_size=size), min_size=1, max_size=4
        )
    ),
    st.sampled_from([lambda r: torch.exp(0.5 * r), lambda r: r**3 - 7, lambda r: r / 16]),
)
def test_an_increasing_map_changes_no_byte(rewards, increasing):
    plain = torch.tensor(rewards, dtype=torch.float32)
    size = plain.shape[1]
    found = shares(plain.tolist())
    assert torch.equal(found, shares(increasing(plain).tolist()))
    # Each pair gives one point.
    assert found.sum(1).tolist() == pytest.approx([size / 2] * len(rewards))


def test_noise_by_hand():
    """At T = 0.2, a difference of 0.4 wins with probability sigmoid(2) = 0.880797."""
    uniforms = torch.full((2, 2, 2), 0.8807)
    uniforms[1] = 0.8809
    rewards = torch.tensor([[0.5, 0.1], [0.5, 0.1]])
    found = comparison_rewards(rewards, noise=0.2, uniforms=uniforms)
    assert found.tolist() == [[1, 0], [0, 1]]


def test_noise_has_its_probability_and_one_winner():
    draws = 4000
    rewards = torch.tensor([[0.5, 0.1, 0.1]]).expand(draws, 3)
    uniforms = uniforms_of(range(draws), size=3, seed=1)
    found = comparison_rewards(rewards, noise=0.2, uniforms=uniforms)
    assert (found.sum(1) == 1.5).all()
    wins = 1 / (1 + math.exp(-2))
    # Two equal rollouts win half of their comparisons with each other.
    expected = [wins, (1 - wins + 0.5) / 2, (1 - wins + 0.5) / 2]
    assert found.mean(0).tolist() == pytest.approx(expected, abs=0.02)


def test_draws_depend_on_the_seed_and_the_sample_alone():
    both = uniforms_of([4, 9], size=3, seed=5)
    assert torch.equal(uniforms_of([9], size=3, seed=5)[0], both[1])
    assert not torch.equal(uniforms_of([9], size=3, seed=6)[0], both[1])
    assert not torch.equal(both[0], both[1])
