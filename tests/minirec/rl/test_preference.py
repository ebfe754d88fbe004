"""DPO of the best and the worst rollout, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from minirec.rl.group import Choice, Group
from minirec.rl.preference import choices, dpo_loss, extremes, pair_loss, summed_by_rollout

NEW = Group([1], completions=[[2], [2]], written=[1, 1], excluded=[], target=0)


def loss(chosen, rejected, *, alive=True, beta=0.1):
    logprob = torch.tensor([[chosen, rejected]], dtype=torch.float64, requires_grad=True)
    reference = torch.zeros_like(logprob)
    total, margin = dpo_loss(logprob, reference, torch.tensor([alive]), beta=beta)
    (gradient,) = torch.autograd.grad(total, logprob)
    return float(total.detach()), float(margin), gradient[0].tolist()


def test_a_pair_by_hand():
    """beta .1 and log ratios (.5, -.3): z = .08, loss .653947, coefficient .048001."""
    total, margin, gradient = loss(0.5, -0.3)
    assert (total, margin) == (pytest.approx(0.653947, abs=1e-6), pytest.approx(0.08))
    assert gradient == pytest.approx([-0.048001, 0.048001], abs=1e-6)


def test_a_swapped_pair_has_the_opposite_margin():
    assert loss(-0.3, 0.5)[1] == pytest.approx(-0.08)


def test_at_the_reference_the_loss_is_log_2():
    assert loss(0, 0)[:2] == (pytest.approx(math.log(2)), 0)


def test_a_dead_group_adds_nothing():
    assert loss(0.5, -0.3, alive=False) == (0, 0, [0, 0])


def test_the_first_best_and_the_first_worst():
    rewards = torch.tensor([[0.2, 0.9, 0.1, 0.9, 0.1], [0.5, 0.5, 0.5, 0.5, 0.5]])
    pair, alive = extremes(rewards, floor=0.001)
    assert pair.tolist() == [[1, 2], [0, 0]]
    assert alive.tolist() == [True, False]


def test_an_increasing_map_of_the_rewards_changes_no_pair():
    rewards = torch.rand((6, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(extremes(rewards, floor=0)[0], extremes(rewards.exp(), floor=0)[0])


def test_the_choice_of_the_first_step_stays():
    """The second group has a choice already, the contrary of what its rewards say now."""
    kept = Choice(1, 0, apart=True, dead=False)
    rewards = torch.tensor([[0.3, 0.1], [0.3, 0.1], [0.2, 0.2]])
    groups = [NEW, replace(NEW, choice=kept), NEW]
    found = choices(groups, rewards, torch.tensor([False, True, True]), floor=0.1)
    first = Choice(0, 1, apart=True, dead=False)
    assert found == [first, kept, Choice(0, 0, apart=False, dead=True)]
    # The groups of the next step have all of them, whatever its rewards are.
    later = [replace(group, choice=one) for group, one in zip(groups, found, strict=True)]
    assert choices(later, -rewards, torch.tensor([True, False, False]), floor=0.0) == found


def test_pairs_by_hand():
    """Log ratios (.5, -.3) of a pair, its swap, and a dead group; one token in each rollout.

    beta .1: z = .08 and -.08, so the losses are .653947 and .733947.
    """
    logprobs = torch.tensor([0.5, -0.3] * 3, requires_grad=True)
    first, swapped = Choice(0, 1, True, False), Choice(1, 0, True, False)
    dead = Choice(0, 1, apart=True, dead=True)
    total, sums = pair_loss(
        logprobs,
        torch.zeros(6),
        torch.arange(6),
        [first, swapped, dead],
        per_prompt=2,
        beta=0.1,
    )
    assert float(total.detach()) == pytest.approx(0.653947 + 0.733947, abs=1e-5)
    assert sums["preference_margin"] == pytest.approx(0)
    assert sums["chosen_log_ratio"] == pytest.approx(0.5 - 0.3)
    total.backward()
    assert logprobs.grad.tolist()[4:] == [0, 0]


def test_sums_over_tokens():
    logprobs = torch.tensor([-1.0, -2.0, -4.0])
    found = summed_by_rollout(logprobs, torch.tensor([0, 0, 2]), 4)
    assert found.tolist() == [-3, 0, -4, 0]
