"""Weights of items in rewards, advantages and losses, against cases computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from minirec.config.training import TrainingConfig
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective, counted, live_tokens

ITEMS = torch.eye(3)
# Rewards 1/2 and 1 (target 1), and 1 and 1/2 (target 2).
ONE = Group([5], [[6, 6], [7, 7, 7, 7]], [2, 4], [0], 1, [[-2.0] * 2, [-2.0] * 4])
TWO = Group([5], [[8, 8], [9, 9]], [2, 2], [0], 2, [[-2.0] * 2, [-2.0] * 2])
FIRST = {id(ONE): [2, 1], id(TWO): [2, 1]}


def objective(factors=None, **settings):
    return Objective(
        TrainingConfig(**settings),
        temperature=1.0,
        cutoff=3,
        reward=ndcg,
        factors=None if factors is None else np.array(factors),
    )


def gradients(asked, groups=(ONE, TWO)):
    """Gradients of the loss by the log-probability of each token, and by the hidden states."""
    rows = [item for group in groups for item in FIRST[id(group)]]
    hidden = (ITEMS[rows] + 0.1).requires_grad_()
    logprobs = torch.full((sum(sum(g.written) for g in groups),), -2.0).requires_grad_()
    candidates = Candidates(torch.tensor([1, 2]), ITEMS[[1, 2]], ITEMS)

    def policy(*, groups):
        return hidden, logprobs

    found = losses(policy, groups, candidates=candidates, objective=asked)
    found.mean(counted(groups)).backward()
    return logprobs.grad, hidden.grad, found


@pytest.mark.parametrize("scale", [True, False])
def test_advantages_by_hand(scale):
    """Both groups have the rewards 1 and 0.63, 0.185 from their mean."""
    half = (1 - 1 / math.log2(3)) / 2
    gradient, _, found = gradients(objective([9.0, 3.0, 0.5], scale_advantage=scale))
    unit = 1 if scale else half
    expected = [[-3 * unit, 3 * unit], [0.5 * unit, -0.5 * unit]]
    assert found.rewards.advantage.tolist() == pytest.approx(np.array(expected), rel=1e-5)
    worse = 1 / math.log2(3)
    rewards = np.array([[3 * worse, 3], [0.5, 0.5 * worse]])
    assert found.rewards.reward.numpy() == pytest.approx(rewards)
    assert found.sums["reward", "groups"] == pytest.approx(rewards.mean(1).sum())
    # d loss / d log p of a token is -A over the 10 written tokens, at ratio 1.
    by_token = np.repeat(np.array(expected).ravel(), [2, 4, 2, 2])
    assert gradient.numpy() == pytest.approx(-by_token / 10, rel=1e-5)


@pytest.mark.parametrize("scale", [True, False])
def test_twice_the_weight_is_twice_the_share_of_the_gradient(scale):
    plain = gradients(objective(scale_advantage=scale))
    ones = gradients(objective([1.0, 1.0, 1.0], scale_advantage=scale))
    double = gradients(objective([1.0, 1.0, 2.0], scale_advantage=scale))
    for one, same, other in zip(plain[:2], ones[:2], double[:2], strict=True):
        assert one.abs().max() > 0.01
        assert torch.equal(one, same)
        half = len(one) * 6 // 10 if one.dim() == 1 else 2  # tokens or rollouts of the first group
        assert torch.equal(other[:half], one[:half])
        assert torch.allclose(other[half:], 2 * one[half:], rtol=1e-6)


def test_an_item_without_a_weight_teaches_nothing():
    tokens, hidden, _ = gradients(objective([1.0, 1.0, 0.0]))
    assert tokens[6:].abs().max() == hidden[2:].abs().max() == 0 < hidden[:2].abs().max()


def test_dead_groups_do_not_depend_on_the_weights():
    """Rewards that differ by 0.4 are alive, however small the factor of their target is."""
    asked = objective([1.0, 1e-6, 1e-6], advantage_floor=0.1)
    _, _, found = gradients(asked)
    assert found.sums["dead_groups", "groups"] == 0

    def policy(*, groups):
        return ITEMS[[2, 1, 2, 1]], torch.full((10,), -2.0)

    assert live_tokens(policy, [ONE, TWO], table=ITEMS, objective=asked) == 10
    asked = replace(asked, training=TrainingConfig(advantage_floor=0.4))
    assert live_tokens(policy, [ONE, TWO], table=ITEMS, objective=asked) == 0


def test_supervision_has_the_same_factors():
    def total(factors, rows):
        hidden = torch.tensor([[3.0, 1.0], [1.0, 2.0]], requires_grad=True)
        vectors = torch.eye(2)
        groups = [Group([row], [[9]], [0], [], row, [[]]) for row in rows]

        def policy(*, groups, logprobs):
            return hidden[[group.prompt[0] for group in groups]], None

        asked = objective(factors, loss="supervised")
        candidates = Candidates(torch.tensor([0, 1]), vectors, None, items=2)
        found = losses(policy, groups, candidates=candidates, objective=asked)
        found.mean({"tokens": 0, "groups": 2}).backward()
        return found.sums["item_loss", "groups"], hidden.grad

    plain = [total(None, [row]) for row in (0, 1)]
    loss, gradient = total([0.5, 3.0], [0, 1])
    assert loss == pytest.approx(0.5 * plain[0][0] + 3 * plain[1][0])
    assert torch.allclose(gradient, 0.5 * plain[0][1] + 3 * plain[1][1])
    # By hand: cosines 3 and 1 over sqrt(10), temperature 1.
    assert plain[0][0] == pytest.approx(math.log1p(math.exp(-2 / math.sqrt(10))))


def test_supervision_ends_where_probabilities_are_in_the_ratio_of_the_weights():
    """Two samples with one history and the targets 0 and 1, which weigh 3 to 1."""
    b = (-math.log(3) + math.sqrt(2 - math.log(3) ** 2)) / 2
    hidden = torch.tensor([[b + math.log(3), b]], dtype=torch.float64)  # unit; p is 3/4 and 1/4

    def slope(factors):
        h = hidden.clone().requires_grad_()
        groups = [Group([0], [[9]], [0], [], target, [[]]) for target in (0, 1)]

        def policy(*, groups, logprobs):
            return h[[0] * len(groups)], None

        vectors = torch.eye(2, dtype=torch.float64)
        candidates = Candidates(torch.tensor([0, 1]), vectors, None, items=2)
        asked = objective(factors, loss="supervised")
        losses(policy, groups, candidates=candidates, objective=asked).parts[0].total.backward()
        return float(h.grad.abs().max())

    assert slope([1.5, 0.5]) == pytest.approx(0, abs=1e-7)
    assert slope(None) > 0.1
