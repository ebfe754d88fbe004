"""Imitation of an expert: the weights and the loss, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from minirec.rl.candidates import Candidates, Rivals
from minirec.rl.demonstrations import Demonstration, Demonstrations
from minirec.rl.imitation import demonstration_weights, imitation_loss, weighted_imitation


def test_the_weight_of_a_known_density_ratio():
    """D = p / (p + e) is (.2, .6667, .6), and 1 / D - 1 = e / p."""
    expert, policy = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.125, 0.5, 0.375]])
    weight = demonstration_weights(torch.zeros(1), expert, policy, alpha=0.0)
    assert weight[0].tolist() == pytest.approx([4, 0.5, 2 / 3])
    d = policy / (policy + expert)
    assert weight[0].tolist() == pytest.approx((1 / d - 1)[0].tolist())


@pytest.mark.parametrize(("advantage", "expected"), [([0, 0], [2, 1]), ([0, math.log(4)], [2, 2])])
def test_two_demonstrations(advantage, expected):
    """With D = (.2, .5): e / p = (4, 1). Half of the weight comes from the advantage."""
    expert, policy = torch.tensor([[0.8], [0.5]]), torch.tensor([[0.2], [0.5]])
    weight = demonstration_weights(
        torch.tensor(advantage, dtype=torch.float32), expert, policy, alpha=0.5
    )
    assert weight[:, 0].tolist() == pytest.approx(expected)
    if advantage == [0, 0]:
        # (2, 1) over their mean is (4/3, 2/3); with log p = (-1, -2) the mean loss is 4/3.
        log_p = torch.tensor([[-1.0], [-2.0]])
        place, one = torch.zeros((2, 1), dtype=torch.int64), torch.ones(2, 1)
        total = imitation_loss(log_p, place, one, weight / weight.mean())
        assert float(total) / 2 == pytest.approx(4 / 3)


def test_weights_are_bounded_and_have_no_gradient():
    policy = torch.tensor([[0.0, 1.0]], requires_grad=True)
    weight = demonstration_weights(torch.tensor([1e9]), torch.tensor([[1, 1e-9]]), policy, alpha=0)
    assert weight.tolist() == [[100.0, pytest.approx(0.01)]]
    assert not weight.requires_grad


def shown(items, probability, *, share=1.0, norm=1.0, advantage=0.0):
    return Demonstrations({7: Demonstration(items, probability, advantage)}, share, norm)


def loss_of(demonstrations, *, alpha, excluded=(), sample=7):
    """The loss of one sample among three candidates with ids 2, 5 and 9, and its gradient."""
    vectors = torch.eye(3)
    hidden = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    mask = torch.zeros((1, 3), dtype=torch.bool)
    mask[0, list(excluded)] = True
    found = Candidates(torch.tensor([2, 5, 9]), vectors, None, items=10)
    rivals = Rivals(vectors, torch.tensor([0]), mask, None)
    total, mean = weighted_imitation(
        hidden, [sample], demonstrations, found, rivals, temperature=1.0, alpha=alpha
    )
    (gradient,) = torch.autograd.grad(total, hidden)
    return float(total.detach()), mean, gradient


def test_one_item_with_weight_one_is_the_log_likelihood():
    """An expert sure of one item, and a policy that has only this one to choose: e / p = 1."""
    total, mean, gradient = loss_of(shown([5], [1.0]), alpha=0.25)
    hidden = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    plain = -torch.log_softmax(hidden / hidden.norm(), 1)[0, 1]
    plain.backward()
    assert mean == pytest.approx(1.0)
    assert total == pytest.approx(float(plain.detach()))
    assert torch.allclose(gradient, hidden.grad)


def test_share_and_norm_scale_the_loss():
    total, mean, _ = loss_of(shown([2, 9], [0.75, 0.25]), alpha=0.0)
    other, same, _ = loss_of(shown([2, 9], [0.75, 0.25], share=0.5, norm=2.0), alpha=0.0)
    assert other == pytest.approx(total / 4)
    assert same == mean


def test_a_sample_without_an_expert_adds_nothing():
    total, mean, gradient = loss_of(shown([2], [1.0]), alpha=0.5, sample=8, excluded=[0])
    assert (total, mean) == (0.0, 0.0)
    assert not gradient.any()
