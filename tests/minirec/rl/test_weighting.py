"""Weights of groups: by hand, their limits, and in the losses of a step."""

from __future__ import annotations

import math

import pytest
import torch

from minirec.config.training import TrainingConfig
from minirec.rl.weighting import difficulty, group_weights


def weights(ndcg, *, kind, normaliser=None, chance=0.0, **settings):
    training = TrainingConfig(weighting=kind, **settings)
    return group_weights(
        torch.tensor(ndcg), chance=chance, training=training, normaliser=normaliser
    )


def exact(ndcg, **settings):
    """The weights with the mean of exp(l / lambda) over these groups as the normaliser."""
    first = weights(ndcg, **settings)
    assert first.weight.tolist() == [1.0] * len(ndcg)
    normaliser = first.sums["weighting"] / len(ndcg)
    return weights(ndcg, normaliser=normaliser, **settings).weight.tolist()


def test_hard_by_hand():
    # l = 0, ln 2, ln 4 gives exp(l) = 1, 2, 4 with mean 7/3.
    ndcg = [1.0, 1 - math.log(2), 1 - math.log(4)]
    assert exact(ndcg, kind="hard") == pytest.approx([3 / 7, 6 / 7, 12 / 7], abs=1e-6)


def test_middle_by_hand():
    # f = 0, 1, 0 gives 1, e, 1 with mean (2 + e) / 3.
    mean = (2 + math.e) / 3
    found = exact([0.0, 0.5, 1.0], kind="middle")
    assert found == pytest.approx([1 / mean, math.e / mean, 1 / mean], abs=1e-6)
    assert found == pytest.approx([0.635825, 1.728351, 0.635825], abs=1e-6)


def test_difficulty_is_of_the_lift_above_chance():
    ndcg = torch.tensor([0.2, 0.6, 1.0, 0.0])
    assert difficulty(ndcg, chance=0.2, kind="hard").tolist() == pytest.approx([1, 0.5, 0, 1.25])
    # Worse than chance is held at 0.
    assert difficulty(ndcg, chance=0.2, kind="middle").tolist() == pytest.approx([0, 1, 0, 0])


@pytest.mark.parametrize("kind", ["hard", "middle"])
def test_an_exact_normaliser_keeps_the_sum(kind):
    ndcg = torch.rand(50, generator=torch.Generator().manual_seed(1)).tolist()
    found = exact(ndcg, kind=kind, weighting_most=100)
    assert sum(found) == pytest.approx(50, rel=1e-5)
    assert len(set(found)) > 40


@pytest.mark.parametrize("kind", ["hard", "middle"])
def test_a_large_temperature_weights_all_alike(kind):
    found = exact([0.0, 0.3, 1.0], kind=kind, weighting_temperature=1e9)
    assert found == [1.0, 1.0, 1.0]


def test_no_weight_exceeds_the_limit():
    found = weights([0.0, 1.0], kind="hard", normaliser=0.1, weighting_most=4)
    assert found.weight.tolist() == [4.0, 4.0]
    assert found.sums["squared_group_weight"] == 32
