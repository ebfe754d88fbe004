"""The contrastive loss of the rollouts of a group, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.rl.contrastive import contrast, contrastive_loss, dense_ranks
from minirec.rl.grpo import is_dead

RANKED = torch.tensor([[0.9, 0.5, 0.1]])


def loss(*logprobs, rewards=RANKED):
    found = torch.tensor([logprobs], dtype=torch.float64, requires_grad=True)
    alive = torch.ones_like(rewards, dtype=torch.bool)
    total = contrastive_loss(found, rewards, alive, margin=0.01, least=1e-3)
    (gradient,) = torch.autograd.grad(total, found)
    return float(total.detach()), gradient[0].tolist()


def test_three_rollouts_by_hand():
    """Margins .01 ln 2 = .006931 for neighbours, .01 (ln 2 + ln 2) = .013863 for the outer pair.

    Only the first pair is misordered: .006931 + .02, over three pairs.
    """
    total, gradient = loss(-1.02, -1.0, -1.5)
    assert total == pytest.approx((0.01 * math.log(2) + 0.02) / 3)
    assert total == pytest.approx(0.008977, abs=1e-6)
    assert gradient == pytest.approx([-1 / 3, 1 / 3, 0])


def test_wide_enough_in_the_right_order():
    assert loss(-1.0, -1.02, -1.5) == (0, [0, 0, 0])


def test_equal_rewards_add_nothing():
    total, gradient = loss(-1.0, -3.0, -2.0, rewards=torch.full((1, 3), 0.4))
    assert (total, gradient) == (0, [0, 0, 0])


def test_the_margin_of_the_outer_pair():
    """f = 0 everywhere: the mean of the three margins."""
    total, gradient = loss(0.0, 0.0, 0.0)
    assert total == pytest.approx(0.01 * (2 * math.log(2) + 2 * math.log(2)) / 3)
    assert gradient == pytest.approx([-2 / 3, 0, 2 / 3])


def test_ranks_with_ties():
    rewards = torch.tensor([[0.5, 0.9, 0.8995, 0.5009, 0.4995], [1.0, 1.0, 1.0, 1.0, 1.0]])
    # .4995 is more than .001 below .5009, where the second rank begins.
    assert dense_ranks(rewards, least=1e-3).tolist() == [[1, 0, 0, 1, 2], [0] * 5]


@given(st.lists(st.sampled_from([0.0, 0.0006, 0.0012, 0.3, 1.0]), min_size=2, max_size=6))
def test_a_group_with_one_rank_is_dead(values):
    rewards = torch.tensor([values])
    one = dense_ranks(rewards, least=1e-3).max() == 0
    assert bool(one) == bool(is_dead(rewards, floor=1e-3))


def test_the_order_of_rollouts_and_increasing_maps_change_nothing():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand((5, 4), generator=generator)
    logprobs = -torch.rand((5, 4), generator=generator)
    alive = torch.ones_like(rewards, dtype=torch.bool)
    own = contrastive_loss(logprobs, rewards, alive, margin=0.1, least=1e-9)
    turned = contrastive_loss(logprobs.flip(1), rewards.flip(1), alive, margin=0.1, least=1e-9)
    mapped = contrastive_loss(logprobs, rewards.exp(), alive, margin=0.1, least=1e-9)
    assert turned == pytest.approx(own) and mapped == own > 0


def test_means_over_tokens_without_empty_rollouts():
    """Rollout 0 has two tokens with the mean -1.02, rollout 1 one token, rollout 2 none."""
    logprobs = torch.tensor([-0.02, -2.02, -1.0], requires_grad=True)
    total, sums = contrast(
        logprobs,
        torch.tensor([0, 0, 1]),
        RANKED,
        torch.tensor([False]),
        margin=0.01,
        least=1e-3,
    )
    assert float(total.detach()) == pytest.approx(0.01 * math.log(2) + 0.02, rel=1e-4)
    assert sums == {"misordered": 1}
    (gradient,) = torch.autograd.grad(total, logprobs)
    assert gradient.tolist() == pytest.approx([-0.5, -0.5, 1])


def test_a_dead_group_adds_nothing():
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    total, sums = contrast(
        logprobs,
        torch.arange(3),
        RANKED.flip(1),
        torch.tensor([True]),
        margin=0.01,
        least=1e-3,
    )
    assert (float(total.detach()), sums["misordered"]) == (0, 0)
