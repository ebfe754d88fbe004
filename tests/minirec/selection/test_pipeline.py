"""Scoring, picking and ordering of features by the settings, and the lines for the user."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers.features import features, rich
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from minirec.config.selection import SelectionConfig
from minirec.errors import ConfigError, FeatureError, MiniRecError
from minirec.selection.baselines import METHODS
from minirec.selection.features import Features
from minirec.selection.pipeline import ordered, pick, score_samples, vectors_read
from minirec.selection.summary import summary


def run(data: Features, *, chance: float = 0.0, **given):
    """Scores, picks, table and the lines for the user."""
    said: list[str] = []
    chosen = SelectionConfig(**{"budget": 8, "groups": 2} | given)
    scores, pool = score_samples(data, chosen, chance=chance, say=said.append)
    picks = pick(data, scores["value"], pool, chosen, seed=1, say=said.append)
    table = ordered(scores, picks, chosen, seed=1)
    said += summary(data, scores, picks.indices, pool)
    return scores, picks, table, said


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_chooses_and_the_curriculum_orders(name):
    data = rich()
    _, _, table, _ = run(data, method=name, curriculum="easy_to_hard")
    assert set(table["sample_id"].to_pylist()) == set(
        METHODS[name](data, budget=8, seed=1).tolist()
    )
    assert (np.diff(table["mean_reward"].to_numpy()) <= 0).all()
    assert np.isnan(table["novelty"].to_numpy()).all()
    assert np.isfinite(table["value"].to_numpy()).all()


def test_min_lift_applies_only_to_the_method_value():
    data = rich()
    rewards = run(data, min_lift=0.5)[2]["mean_reward"].to_numpy()
    assert rewards.min() >= 0.5
    assert run(data, min_lift=0.5, method="random")[2]["mean_reward"].to_numpy().min() < 0.5


def test_the_lift_is_that_of_the_reward_where_no_ndcg_is_known():
    # reward 0.6 above chance 0.2 is a lift of 0.5, the centre
    data = features(3, mean_reward=[0.2, 0.6, 1.0])
    learnable = run(data, chance=0.2, lift=True, sigma=0.3, budget=1, groups=1)[0]["learnability"]
    assert learnable == pytest.approx([0, 1, 0], abs=1e-9)
    with_ndcg = dataclasses.replace(data, mean_ndcg=np.array([0.6, 0.2, 1.0]))
    learnable = run(with_ndcg, chance=0.2, lift=True, sigma=0.3, budget=1, groups=1)[0][
        "learnability"
    ]
    assert learnable == pytest.approx([1, 0, 0], abs=1e-9)


def test_a_warning_if_rewards_do_not_fit_the_gaussian():
    data = features(3, mean_reward=[2.0, 6.0, 9.5])
    assert "mean rewards lie in 2 to 9.5, but selection.mu=0.5" in run(data, budget=2)[3][0]
    for fitting in ({"mu": None}, {"mu": 5.0}, {"method": "random"}):
        assert "rescale" not in " ".join(run(data, budget=2, **fitting)[3])


def test_hit_variance_where_all_rollouts_are_hits():
    data = features(3, mean_reward=[0.2, 0.6, 0.9], hits=[2, 2, 2], rollouts=[2, 2, 2])
    with pytest.raises(ConfigError, match="give another chance level"):
        run(data, learnability="hit_variance", budget=2)


def test_hit_variance_is_scaled_to_go_with_representativeness():
    data = features(3, hits=[0, 1, 2], rollouts=[2, 2, 2])
    scores = run(data, learnability="hit_variance", budget=2)[0]
    assert scores["learnability"] == pytest.approx([0, 1, 0], abs=1e-6)
    single = features(3, hits=[0, 1, 1], rollouts=[1, 1, 1])
    for name in ("learnability", "method"):
        with pytest.raises(FeatureError, match="two or more rollouts"):
            run(single, budget=2, **{name: "hit_variance"})


def test_directions_choose_the_vectors():
    # Mean of hvp (1, 1): row 2 is aligned. Mean of gradient (1, 0): row 0 is, row 1 is not.
    data = features(
        3,
        hvp=[[3.0, 0], [0, 3], [1, 1]],
        gradient=[[2.0, 0], [-1, 0], [1, 1]],
        rollout_gradient=[[0.0, 1], [0, 0], [0, -3]],
    )
    by_rollouts = run(data, directions="head_gradient", budget=2)[0]["representativeness"]
    assert by_rollouts == pytest.approx([0, 0, 1], abs=1e-6)  # mean (0, -1); row 1 has no direction
    data = dataclasses.replace(data, rollout_gradient=None)
    by_hvp = run(data, directions="head_hvp", budget=2)[0]["representativeness"]
    assert by_hvp == pytest.approx([0, 0, 1], abs=1e-6)
    for name in ("head_gradient", "lora_projected"):
        by_gradient = run(data, directions=name, budget=2)[0]["representativeness"]
        assert by_gradient[1] == 0 and by_gradient[0] > 0.9
    said = run(dataclasses.replace(data, hvp=None), directions="head_hvp", budget=2)[3]
    assert said[0] == "no hvp: representativeness uses gradient"


def test_missing_features_are_skipped_with_a_line():
    data = features(6, mean_reward=[0.0, 0.5, 0.4, 0.1, 0.5, 0.9], hits=[0, 2, 1, 1, 2, 4])
    scores, picks, table, said = run(data, budget=3)
    assert "no gradients: the value is the learnability alone" in said
    assert (
        "no embeddings: the samples with the highest values are selected, without diversity" in said
    )
    assert picks.indices.tolist() == [1, 4, 2]
    assert scores["value"].tolist() == scores["learnability"].tolist()
    assert np.isnan(scores["representativeness"]).all()
    with pytest.raises(ConfigError, match=r"selection\.alpha is 0 and there is no gradient"):
        run(data, budget=3, alpha=0)


def test_a_line_about_too_few_live_samples():
    data = features(6, hits=[0, 0, 1, 0, 1, 0])
    said = run(data, budget=4, method="random_live")[3]
    assert "only 2 samples have a hit; random_live adds others" in said


def test_full_takes_all_whatever_the_budget():
    assert run(rich(), method="full", budget=3, groups=4)[2].num_rows == 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": 61}, "budget 61 exceeds the 60 samples"),
        ({"budget": 61, "method": "random"}, "budget 61 exceeds the 60 samples"),
        ({"budget": 3, "groups": 4, "method": "random"}, "groups 4 exceeds the 3 selected"),
        ({"learnability": "gaussian_live"}, "no rollout of any sample ranks its target above"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    data = dataclasses.replace(rich(), hits=np.zeros(60, dtype=np.int64))
    with pytest.raises(MiniRecError, match=message):
        run(data, **given)


def test_the_summary_says_what_each_criterion_gave():
    data = dataclasses.replace(rich(), screened=np.arange(60) < 15)
    scores, picks, _, said = run(data, alpha=0.7)
    chosen, text = picks.indices, "\n".join(said)
    failed = (data.hits == 0) & ~data.screened
    dead = failed.mean(), failed[chosen].mean()
    assert f"kept 8 of 60 samples; dead (no rollout above chance): {dead[0]:.0%} of all, " in text
    assert f"{dead[1]:.0%} of the selection; overlap" in text
    assert "screened and not rolled out: 25% of all" in text
    middle = np.median(scores["value"]), np.median(scores["value"][chosen])
    line = next(line for line in said if line.startswith("value at 5/25/50/75/95%"))
    assert f" {middle[0]:.2f} " in line and f" {middle[1]:.2f} " in line
    for name in ("learnability", "representativeness"):
        rho = spearmanr(scores[name], scores["value"]).statistic
        top = sorted(range(60), key=lambda i: (-scores[name][i], i))[:8]
        share = len(set(top) & set(chosen.tolist())) / 8
        assert (
            f"{name}: rank correlation with the value {rho:.2f}; the selection shares "
            f"{share:.0%} with the top 8 by it alone"
        ) in said


def test_a_summary_of_equal_values_says_so():
    said = run(features(4), budget=2)[3]
    assert any("rank correlation with the value undefined" in line for line in said)


@settings(max_examples=60)
@given(st.data())
def test_any_features_give_a_selection_or_one_sentence(data):
    count = data.draw(st.integers(1, 6))
    number = st.one_of(st.floats(-1e30, 1e30), st.floats(0, 1))
    hits = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    vectors = st.lists(st.lists(number, min_size=2, max_size=2), min_size=count, max_size=count)
    found = features(
        count,
        mean_reward=data.draw(st.lists(number, min_size=count, max_size=count)),
        hits=np.array(hits),
        hvp=np.array(data.draw(vectors)),
    )
    given = {
        name: data.draw(st.sampled_from(choices))
        for name, choices in {
            "method": ["value", *sorted(METHODS)],
            "learnability": ["gaussian", "gaussian_live", "hit_variance"],
            "fusion": ["sum", "rank"],
            "lift": [True, False],
        }.items()
    }
    try:
        scores, picks, table, _ = run(found, budget=1, groups=1, **given)
    except MiniRecError as error:
        assert "\n" not in str(error)
        return
    assert table.num_rows == len(picks.indices)
    assert np.isfinite(scores["value"]).all() and not math.isnan(table["value"][0].as_py())


def reads_gradients(features, reward, settings):
    return np.abs(features.need("gradient", by="a test")[:, 0])


def one_number(features, reward, settings):
    return 0.5


def in_order(ids, *, mean_reward, groups, seed):
    return np.sort(ids)


def first_alone(ids, *, mean_reward, groups, seed):
    return ids[:1]


def test_a_learnability_of_the_user_may_read_every_vector():
    settings = SelectionConfig(budget=8, learnability=f"{__name__}:reads_gradients")
    assert "gradient" in vectors_read(settings)
    assert "gradient" not in vectors_read(SelectionConfig())


def test_a_curriculum_of_the_user_gets_the_groups():
    table = run(rich(), budget=8, groups=2, curriculum=f"{__name__}:in_order")[2]
    assert table["sample_id"].to_pylist() == sorted(table["sample_id"].to_pylist())
    assert table["group"].to_pylist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("setting", "function", "message"),
    [
        ("learnability", "one_number", r"returned shape \(\), or NaN"),
        ("curriculum", "first_alone", "returned 1 ids; expected the 8 ids"),
    ],
)
def test_a_wrong_result_of_a_function_of_the_user_is_refused(setting, function, message):
    with pytest.raises(FeatureError, match=message):
        run(rich(), budget=8, groups=2, **{setting: f"{__name__}:{function}"})
