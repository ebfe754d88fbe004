"""The collaborative prior in the ranking and in the losses, by hand and against cross-entropy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minirec.config.training import TrainingConfig
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.ranker import Ranker
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective

ITEMS = 6
TARGETS = [([0, 1], 2), ([3], 5), ([2, 4], 2)]
GIVEN = np.random.default_rng(2).uniform(0, 3, (3, ITEMS)).astype(np.float32)


def given(asked):
    """A prior whose scores are the row of the sample."""
    return GIVEN[[one.sample_id for one in asked]]


def groups():
    """One forced answer for each sample."""
    return [
        Group([row], [[9]], [0], excluded, target, [[]], sample_id=row)
        for row, (excluded, target) in enumerate(TARGETS)
    ]


def test_the_ranker_adds_the_prior_of_the_sample():
    """Cosines 1, 0, 0 at temperature 1/2 are 2, 0, 0; with the prior they are 2, 0, 2.5."""
    ranker = Ranker(torch.eye(3), 0.5, lambda asked: np.array([[0, 0, 2.5]], np.float32))
    targets = ranker.targets([Group([0], [[9]], [0], [], 0)])
    hidden = torch.tensor([[7.0, 0.0, 0.0], [0.0, 3.0, 0.0]])  # two rollouts
    # The second: 0, 2, 2.5. The target has the lowest score.
    assert ranker.rank(hidden, targets).rank.tolist() == [2, 3]
    assert ranker.rank(hidden[:1], replace(targets, prior=None)).rank.tolist() == [1]


@pytest.mark.parametrize("kind", ["batch", "catalogue", "corrected"])
def test_the_item_loss_has_the_prior_of_its_candidates(kind):
    torch.manual_seed(0)
    hidden = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    table = F.normalize(torch.randn(ITEMS, 4, dtype=torch.float64), dim=-1)
    ids = torch.tensor([2, 5])
    presence = torch.linspace(-2, -1, ITEMS, dtype=torch.float64)
    corrected = kind == "corrected"
    candidates = Candidates(
        ids, table[ids], table, log_presence=presence if corrected else None, items=ITEMS
    )
    objective = Objective(
        TrainingConfig(loss="supervised", item_candidates=kind),
        temperature=0.5,
        cutoff=1000,
        reward=reward_function("ndcg_softmax", softmax_weight=0.05),
        prior=given,
    )

    def policy(*, groups, logprobs):
        return hidden[[group.prompt[0] for group in groups]], None

    found = losses(policy, groups(), candidates=candidates, objective=objective).parts[0]
    (gradient,) = torch.autograd.grad(found.total, hidden)

    places = list(range(ITEMS)) if kind == "catalogue" else ids.tolist()
    scores = F.normalize(hidden, dim=1) @ table[places].T / 0.5
    scores = scores + torch.from_numpy(GIVEN).double()[:, places]
    if corrected:
        scores = scores - presence[places]
    out = [[item in history and item != own for item in places] for history, own in TARGETS]
    own = torch.tensor([places.index(target) for _, target in TARGETS])
    scores = scores.masked_fill(torch.tensor(out), -torch.inf)
    expected = F.cross_entropy(scores, own, reduction="sum")
    assert found.sums["item_loss"] == pytest.approx(float(expected), abs=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(expected, hidden)[0], atol=1e-6)
