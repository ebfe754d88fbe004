"""The supervised loss against plain cross-entropy, and against a case computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from minirec.config.training import TrainingConfig
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective, counted

ITEMS = 6
HISTORIES = [([0, 1], 2), ([3], 5), ([2, 4], 2)]


def objective(**settings):
    reward = reward_function("ndcg_softmax", softmax_weight=0.05)
    training = TrainingConfig(loss="supervised", **settings)
    return Objective(training, temperature=0.5, cutoff=1000, reward=reward)


def forced(rows=HISTORIES):
    """Groups as the loop makes them: the answer marker 9 is the only completion."""
    return [
        Group([row], [[9]], [0], excluded, target, [[]])
        for row, (excluded, target) in enumerate(rows)
    ]


class Policy:
    """A hidden state for each prompt; it refuses to read anything but the prompt and the marker."""

    def __init__(self, hidden):
        self.hidden = hidden

    def __call__(self, *, groups, logprobs):
        assert not logprobs
        sequences = [group.sequences[0] for group in groups]
        assert all(len(sequence) == 2 and sequence[1] == 9 for sequence in sequences)
        return self.hidden[[sequence[0] for sequence in sequences]], None


def test_by_hand():
    """Cosines 1 and 0 at temperature 1/2: -log p = log(1 + e^-2); the history has no part."""
    hidden = torch.tensor([[3.0, 0.0]], requires_grad=True)
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    candidates = Candidates(torch.tensor([0, 2, 5]), vectors, None, items=ITEMS)
    found = losses(Policy(hidden), forced([([0], 2)]), candidates=candidates, objective=objective())
    (part,) = found.parts
    assert (found.rewards, part.unit) == (None, "groups")
    assert found.sums == {("item_loss", "groups"): pytest.approx(math.log1p(math.exp(-2)))}
    part.total.backward()
    wrong = 1 / (1 + math.e**2)  # probability of item 5
    # d loss / d w = (p - y) u / tau, and d loss / d h is across h: (p_5 w_5 / tau) / |h|.
    assert vectors.grad.tolist()[0] == [0, 0]
    assert vectors.grad.tolist()[1] == pytest.approx([-2 * wrong, 0])
    assert vectors.grad.tolist()[2] == pytest.approx([2 * wrong, 0])
    assert hidden.grad.tolist()[0] == pytest.approx([0, 2 * wrong / 3], abs=1e-7)


@pytest.mark.parametrize("kind", ["batch", "all", "catalogue"])
def test_loss_and_gradients_are_those_of_cross_entropy(kind):
    torch.manual_seed(0)
    hidden = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    table = F.normalize(torch.randn(ITEMS, 4, dtype=torch.float64), dim=-1)
    ids = torch.arange(ITEMS) if kind == "all" else torch.tensor([2, 5])
    vectors = table[ids].clone().requires_grad_(True)
    asked = objective(item_candidates="catalogue") if kind == "catalogue" else objective()
    whole = table if kind == "catalogue" else None
    candidates = Candidates(ids, vectors, whole, items=ITEMS)
    total = torch.zeros((), dtype=torch.float64)
    for micro in (forced()[:2], forced()[2:]):
        found = losses(Policy(hidden), micro, candidates=candidates, objective=asked)
        total = total + found.mean(counted(forced()))
    gradients = torch.autograd.grad(total, (hidden, vectors))

    places = range(ITEMS) if kind == "catalogue" else ids.tolist()
    used = table.index_copy(0, ids, vectors) if kind == "catalogue" else vectors
    scores = (hidden / hidden.norm(dim=1, keepdim=True)) @ used.T / 0.5
    out = [[item in history for item in places] for history, _ in HISTORIES]
    place = torch.tensor([list(places).index(target) for _, target in HISTORIES])
    mask = torch.tensor(out)
    mask[range(3), place] = False
    plain = F.cross_entropy(scores.masked_fill(mask, -torch.inf), place)
    for one, other in zip(gradients, torch.autograd.grad(plain, (hidden, vectors)), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
