"""Reset Replay: passes, resets and the loss of the best rollouts, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from minirec.rl.group import Choice
from minirec.rl.grpo import Clip, is_clipped, token_loss
from minirec.rl.replay import best_loss, best_weight, pass_of, shrunk


def test_passes():
    assert [pass_of(step, 3) for step in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [pass_of(step, 1) for step in range(3)] == [(0, 0), (1, 0), (2, 0)]


def test_the_weight_rises_to_the_cap():
    assert [best_weight(number, 3, 0.5) for number in range(3)] == [0, 0.25, 0.5]
    assert best_weight(0, 1, 0.5) == 0


def test_keeping_half_of_b_keeps_half_of_the_change():
    """A = 3 with start 1, B = 2 with start 0: the change B A is 6."""
    a, b = torch.tensor(3.0), torch.tensor(2.0)
    assert shrunk(b, None, 0.5) * a == 3
    assert shrunk(b, torch.tensor(0.0), 0.5) * shrunk(a, torch.tensor(1.0), 0.5) == 2


def test_after_n_resets_a_change_counts_with_the_power_of_keep():
    """Changes d1, d2, d3 with a reset after the first two: keep^2 d1 + keep d2 + d3."""
    b = torch.tensor(0.0)
    for change in (1.0, 10.0):
        b = shrunk(b + change, None, 0.5)
    assert b + 100 == 0.25 * 1 + 0.5 * 10 + 100


def test_a_token_that_has_moved_far_is_clipped():
    """log ratio .3: the ratio 1.349859 is above 1.28."""
    log_ratio = torch.tensor([0.3], requires_grad=True)
    advantage = torch.ones(1)
    assert math.exp(0.3) == pytest.approx(1.349859)
    assert is_clipped(log_ratio, advantage, clip=Clip()).tolist() == [True]
    token_loss(log_ratio, torch.zeros(1), advantage, clip=Clip()).backward()
    assert log_ratio.grad.tolist() == [0]


def test_the_best_rollouts_of_live_groups():
    """Two groups of two rollouts with tokens 0, 1 | 2 and 3 | 4; the second group is dead."""
    logprobs = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0], requires_grad=True)
    rollout = torch.tensor([0, 0, 1, 2, 3])
    chosen = [Choice(0, 1, apart=True, dead=False), Choice(0, 0, apart=False, dead=True)]
    total = best_loss(logprobs, rollout, chosen, per_prompt=2)
    assert float(total.detach()) == 3
    total.backward()
    assert logprobs.grad.tolist() == [-1, -1, 0, 0, 0]
    assert float(best_loss(logprobs, rollout, chosen[1:] * 2, per_prompt=2)) == 0
