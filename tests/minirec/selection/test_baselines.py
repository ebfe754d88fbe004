"""Baselines by hand, common properties of all of them, and the Beta prior against scipy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.features import features, rich
from scipy.stats import betabinom

from minirec.errors import FeatureError, MiniRecError
from minirec.selection.baselines import METHODS, ccs
from minirec.selection.features import Features
from minirec.selection.learnability import fit_beta, hit_variance

# common properties


@pytest.mark.parametrize("budget", [1, 7, 45, 60])
@pytest.mark.parametrize("name", METHODS)
def test_exactly_the_budget_of_distinct_known_ids_again_and_again(name, budget):
    data = rich()
    chosen = METHODS[name](data, budget=budget, seed=3)
    assert chosen.dtype == np.int64
    assert len(chosen) == len(set(chosen.tolist())) == (60 if name == "full" else budget)
    assert set(chosen.tolist()) <= set(data.sample_id.tolist())
    assert chosen.tolist() == METHODS[name](data, budget=budget, seed=3).tolist()


@pytest.mark.parametrize("name", ["random", "random_live", "random_band", "ccs"])
def test_the_seed_changes_random_methods(name):
    data = rich()
    first, second = (set(METHODS[name](data, budget=20, seed=s).tolist()) for s in (1, 2))
    assert first != second


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", [0, 61])
def test_a_budget_outside_the_samples_is_refused(name, budget):
    with pytest.raises(ValueError, match=rf"budget is {budget}; expected 1\.\.60"):
        METHODS[name](rich(), budget=budget, seed=0)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("grad_norm", "gradient"),
        ("el2n", "el2n"),
        ("kmeans", "embedding"),
        ("kcenter", "embedding"),
        ("less", "gradient"),
        ("less", "validation_gradient"),
    ],
)
def test_a_missing_feature_is_named(name, missing):
    data = dataclasses.replace(rich(), **{missing: None})
    with pytest.raises(FeatureError, match=f"{name} needs {missing}, which") as caught:
        METHODS[name](data, budget=3, seed=0)
    assert isinstance(caught.value, MiniRecError) and isinstance(caught.value, ValueError)


# by hand


def pick(name: str, data: Features, budget: int, seed: int = 0) -> list[int]:
    return METHODS[name](data, budget=budget, seed=seed).tolist()


def test_random_live_takes_samples_with_a_hit_first():
    data = features(5, hits=[0, 1, 0, 4, 0])
    for seed in range(5):
        assert sorted(pick("random_live", data, 2, seed)) == [11, 13]
        assert {11, 13} < set(pick("random_live", data, 4, seed))


def test_random_band_leaves_the_hopeless_and_the_solved_for_last():
    data = dataclasses.replace(
        rich(), hits=np.arange(60) % 4, mean_ndcg=np.where(np.arange(60) < 20, 1.0, 0.5)
    )
    inside = {i for i in range(20, 60) if i % 4}
    rows = {int(i): row for row, i in enumerate(data.sample_id)}
    chosen = [rows[i] for i in METHODS["random_band"](data, budget=60, seed=1).tolist()]
    assert set(chosen[: len(inside)]) == inside
    other = [rows[i] for i in METHODS["random_band"](data, budget=60, seed=2).tolist()]
    assert chosen[: len(inside)] != other[: len(inside)]


def test_random_is_uniform():
    drawn = [pick("random", features(4), 1, seed)[0] for seed in range(2000)]
    counts = np.bincount(drawn)[10:]
    assert np.abs(counts - 500).max() < 100  # five standard deviations


def test_orders_by_hand_with_ties_to_the_lowest_id():
    assert pick("top_reward", features(mean_reward=[0.1, 0.9, 0.9, 0.5]), 3) == [11, 12, 13]
    assert pick("el2n", features(el2n=[0.1, 0.2, 0.2, 0.0]), 3) == [11, 12, 10]
    gradient = [[3.0, 4], [0, 0], [-5, 0], [0, 6]]
    assert pick("grad_norm", features(gradient=gradient), 4) == [13, 10, 12, 11]
    assert pick("full", features(), 2) == [10, 11, 12, 13]


def test_hit_variance_prefers_what_is_hit_half_of_the_time():
    data = features(5, hits=[0, 1, 2, 3, 4])
    assert pick("hit_variance", data, 3) == [12, 11, 13]


def test_less_by_hand():
    # cosines with (1, 1): 1, 0.707, none, -1
    data = features(gradient=[[2.0, 2], [5, 0], [0, 0], [-1, -1]], validation_gradient=[1.0, 1])
    assert pick("less", data, 4) == [10, 11, 13, 12]


def test_less_refuses_another_width_and_a_zero_goal():
    gradient = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"has shape \(3,\) and length 1.73205; expected \(2,\)"):
        pick("less", features(gradient=gradient, validation_gradient=[1.0, 1, 1]), 2)
    with pytest.raises(ValueError, match="and length 0; expected"):
        pick("less", features(gradient=gradient, validation_gradient=[0.0, 0]), 2)


def test_kcenter_by_hand():
    # From the first row: the opposite one, then the row at a right angle to both.
    data = features(embedding=[[1.0, 0], [0.9, 0.1], [-2, 0], [0, 3]])
    assert pick("kcenter", data, 4) == [10, 12, 13, 11]


def test_kmeans_takes_the_middle_of_each_cluster():
    angles = np.radians([0, 5, 10, 90, 95, 100, 180, 185, 190])
    embedding = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 7
    assert sorted(pick("kmeans", features(9, embedding=embedding), 3)) == [11, 14, 17]


def test_kmeans_of_equal_embeddings_takes_the_lowest_free_ids():
    data = features(6, embedding=np.ones((6, 2)))
    assert sorted(pick("kmeans", data, 4)) == [10, 11, 12, 13]


def test_kmeans_in_few_rounds_lies_nearer_to_all_than_chance(monkeypatch):
    monkeypatch.setattr("minirec.selection.baselines.LARGE", 0)
    data = rich(200)
    unit = data.embedding.astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def distance(name: str) -> float:
        chosen = np.array(pick(name, data, 20)) - 10
        assert len(set(chosen)) == 20
        return float((1 - unit @ unit[chosen].T).min(axis=1).mean())

    assert distance("kmeans") < 0.9 * distance("random")


def test_ccs_drops_the_hardest_and_shares_from_the_smallest_stratum():
    # 20 samples; the 2 hardest go. Strata: 1 at reward 0.5, 4 at 0.75, 13 at 1.
    reward = [0.0, 0.0, 0.5] + [0.75] * 4 + [1.0] * 13
    data = features(20, mean_reward=reward)
    for seed in range(5):
        rows = ccs(data, budget=9, seed=seed) - 10
        # 9 // 3 = 3, but the first has 1; 8 // 2 = 4; the last gives the remaining 4.
        assert [(rows == 2).sum(), ((rows > 2) & (rows < 7)).sum(), (rows >= 7).sum()] == [1, 4, 4]
    # A large budget drops fewer samples.
    assert sorted(ccs(data, budget=19, seed=0) - 10) == list(range(1, 20))


# the Beta prior


def likelihood(hits, rollouts, a, b) -> float:
    return float(betabinom.logpmf(hits, rollouts, a, b).sum())


def test_hit_variance_by_hand():
    # One sample each with 0, 1 and 2 hits of 2: exactly as the uniform prior predicts, so
    # a = b = 1 and p = (1 + h) / 4.
    a, b = fit_beta([0, 1, 2], rollouts=2)
    assert (a, b) == pytest.approx((1, 1), rel=1e-4)
    found = hit_variance([0, 1, 2], rollouts=2)
    assert found == pytest.approx([3 / 16, 1 / 4, 3 / 16], rel=1e-4)


def test_rollouts_may_differ_and_be_none():
    hits, rollouts = [0, 1, 2, 0], [2, 2, 2, 0]
    # The sample without rollouts has the prior mean, 1/2.
    assert hit_variance(hits, rollouts=rollouts)[3] == pytest.approx(1 / 4, rel=1e-4)
    assert hit_variance([0, 0], rollouts=[0, 0]).tolist() == [0.25, 0.25]


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.0), (5.0, 1.5), (0.2, 0.2), (30.0, 60.0)])
def test_no_prior_of_a_grid_is_likelier(a, b):
    rng = np.random.default_rng(1)
    rollouts = rng.choice([2, 4, 8], size=300)
    hits = betabinom.rvs(rollouts, a, b, random_state=rng)
    best = likelihood(hits, rollouts, *fit_beta(hits, rollouts=rollouts))
    grid = np.geomspace(1e-2, 1e3, 26)
    assert best >= max(likelihood(hits, rollouts, x, y) for x in grid for y in grid) - 1e-6
    assert best >= likelihood(hits, rollouts, a, b)


@pytest.mark.parametrize(
    ("hits", "rollouts"),
    [([0] * 9, 4), ([4] * 9, 4), ([2] * 9, 4), ([0, 4] * 5, 4), ([0, 1, 1], 1), ([3], 4)],
)
def test_extreme_data_have_finite_answers(hits, rollouts):
    a, b = fit_beta(hits, rollouts=rollouts)
    mean = np.sum(hits) / (len(hits) * rollouts)
    assert min(a, b) >= 1e-3 * 0.99 and max(a, b) <= 1e4 * 1.01
    assert a / (a + b) == pytest.approx(mean, abs=0.02)
    found = hit_variance(hits, rollouts=rollouts)
    assert np.isfinite(found).all() and (found >= 0).all() and (found <= 0.25).all()


def test_without_any_hit_nothing_varies():
    assert hit_variance([0] * 50, rollouts=4).max() < 1e-3
    assert hit_variance([4] * 50, rollouts=4).max() < 1e-3


@pytest.mark.parametrize(
    ("hits", "rollouts", "message"),
    [
        ([1, 5], 4, "hits row 1 is 5; expected at most its 4 rollouts"),
        ([0, 1, 1], [4, 4, 0], "hits row 2 is 1; expected at most its 0 rollouts"),
        ([0.5], 4, "hits row 0 is 0.5; expected a whole number"),
        ([0, -1], 4, "hits row 1 is -1; expected 0 or more"),
        ([0, 1], [4], "rollouts has 1 rows; expected 2"),
        ([1], [1.5], "rollouts row 0 is 1.5; expected a whole number"),
        ([], 4, "hits has shape"),
    ],
)
def test_hit_variance_refuses(hits, rollouts, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        hit_variance(hits, rollouts=rollouts)


def test_learn_align_by_hand():
    """p (1 - p) is 1/4, 1/4, 3/16 and 0. The mean of v g is (1/8, 3/64) in unit directions."""
    data = features(
        4,
        mean_reward=np.zeros(4),
        hits=np.array([2, 2, 1, 4]),
        gradient=np.array([[1.0, 0], [9.0, 0], [0, 2.0], [1.0, 0]]),
    )
    data = dataclasses.replace(data, rollouts=np.full(4, 4))
    ranked = METHODS["learn_align"](data, budget=4, seed=1)
    # Scores 1/32, 1/32, 9/1024, 0; the length of the second gradient does not matter.
    assert ranked.tolist() == data.sample_id.tolist()
    other = dataclasses.replace(data, lora_gradient=np.eye(4)[[0, 1, 1, 1]])
    # Scores 1/64, (1/16 + 3/64) / 16 = 7/256, 21/1024, 0: the second and third one agree.
    chosen = METHODS["learn_align"](other, budget=3, seed=1)
    assert chosen.tolist() == data.sample_id[[1, 2, 0]].tolist()


def test_learn_align_gives_samples_without_a_gradient_no_score():
    data = features(
        2, mean_reward=np.zeros(2), hits=np.array([1, 1]), gradient=np.array([[0.0, 0], [1, 0]])
    )
    data = dataclasses.replace(data, rollouts=np.full(2, 2))
    assert METHODS["learn_align"](data, budget=1, seed=1).tolist() == [data.sample_id[1]]


def test_surrogate_leaves_out_the_highest_losses_and_takes_every_stratum():
    data = features(100, mean_reward=np.zeros(100))
    data = dataclasses.replace(data, surrogate_loss=np.arange(100.0))
    chosen = np.searchsorted(data.sample_id, METHODS["surrogate"](data, budget=45, seed=1))
    assert chosen.max() < 90
    # The losses 0..89 are in 50 strata with one or two samples; 45 give one.
    edges = np.linspace(-89, 0, 51)
    assert len(np.unique(np.searchsorted(edges[1:-1], -chosen, side="right"))) == 45
    with pytest.raises(FeatureError, match="surrogate needs surrogate_loss"):
        METHODS["surrogate"](features(3, mean_reward=np.zeros(3)), budget=1, seed=1)
