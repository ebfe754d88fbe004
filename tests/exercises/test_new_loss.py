"""Exercise: a loss of your own.

A loss is a function of the rollouts of a micro-batch, their rewards, the candidate items and the
settings. It returns the sum over the micro-batch and names what the step divides it by. To ship it
with MiniRec, move it to `minirec.rl.losses` and add its name to `LOSSES` there: the training loop
then adds it up with the others, and the log shows its figures.
"""

from __future__ import annotations

import math

import pytest
import torch

from minirec.config.training import TrainingConfig
from minirec.rl import losses
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Loss, Objective, Rewards, Rollouts

WEIGHT = 0.01


def divergence(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """Keeps the policy near the one that wrote the rollouts: r - 1 - log r, r their ratio."""
    log_ratio = rollouts.logprobs - rollouts.behaviour
    total = WEIGHT * (torch.exp(log_ratio) - 1 - log_ratio).sum()
    # The log adds up the figures whose names end in _loss.
    return Loss(total, {"divergence_loss": float(total.detach())}, "tokens")


def test_the_step_adds_the_loss(monkeypatch):
    monkeypatch.setattr(losses, "LOSSES", (*losses.LOSSES, divergence))
    # Two rollouts of a prompt, one token each: the policy doubles the probability of the first.
    group = Group(
        prompt=[5],
        completions=[[6], [7]],
        written=[1, 1],
        excluded=[],
        target=1,
        rollout_logprobs=[[math.log(0.2)], [math.log(0.3)]],
    )
    logprobs = torch.tensor([0.4, 0.3]).log().requires_grad_()
    items = torch.eye(3)

    def policy(*, groups):
        return items[:2], logprobs  # the hidden states point at items 0 and 1

    found = losses.losses(
        policy,
        [group],
        candidates=Candidates(torch.tensor([1]), items[1:2], items),
        objective=Objective(TrainingConfig(), temperature=1.0, cutoff=3, reward=ndcg),
    )
    assert found.sums["divergence_loss", "tokens"] == pytest.approx(WEIGHT * (1 - math.log(2)))
    found.parts[-1].total.backward()
    # The gradient by log p is r - 1: 1 for the first token, 0 for the second.
    assert logprobs.grad.tolist() == pytest.approx([WEIGHT, 0.0])
