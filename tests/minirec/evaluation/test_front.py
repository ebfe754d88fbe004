"""Front and choice of a sweep, on cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from minirec.evaluation.front import choose, fronts, pareto
from minirec.evaluation.outcomes import Outcome
from minirec.evaluation.paired import Bootstrap, standing


def alone(samples, *, resamples, seed):
    """Resamples of users who have one sample each."""
    return Bootstrap(np.arange(samples), resamples, seed)


def outcome(name, budget, ndcg, rollouts, seconds=None):
    ndcg = np.atleast_2d(np.asarray(ndcg, dtype=float))
    rows = [
        {"setting": name, "samples": budget, "rollouts": rollouts, "seconds": spent}
        for spent in seconds or [rollouts] * len(ndcg)
    ]
    return Outcome(rows, ndcg)


def test_pareto_by_hand():
    #       dominated by 1 | front | front | dominated by 2 (same cost) | twin of 2
    cost = [200, 100, 300, 300, 300]
    quality = [0.2, 0.3, 0.5, 0.4, 0.5]
    assert pareto(cost, quality).tolist() == [False, True, True, False, True]


def test_pareto_against_all_pairs():
    rng = np.random.default_rng(0)
    cost, quality = rng.integers(0, 12, 60), rng.integers(0, 12, 60)

    def beaten(i):
        return any(
            cost[j] <= cost[i]
            and quality[j] >= quality[i]
            and (cost[j], quality[j]) != (cost[i], quality[i])
            for j in range(60)
        )

    assert pareto(cost, quality).tolist() == [not beaten(i) for i in range(60)]


def test_outcomes_average_seeds_and_keep_fronts_apart():
    a = outcome("a", 10, [[0.2, 0.4], [0.4, 0.6]], 100, seconds=[50, 70])
    b = outcome("b", 20, [[0.1, 0.5], [0.3, 0.3]], 150, seconds=[10, 10])
    assert (a.quality, b.quality) == (pytest.approx(0.4), pytest.approx(0.3))
    assert standing(a.ndcg, alone(2, resamples=200, seed=1)).mean == pytest.approx(0.4)
    assert (a.cost("rollouts"), a.cost("seconds")) == (100, 60)
    assert fronts([a, b]) == {"rollouts": {"a"}, "seconds": {"a", "b"}}


def test_interval_covers_seeds_and_samples():
    # Seeds differ by .2 and samples by .4: all four corners can be drawn alone.
    ndcg = np.array([[0.2, 0.6], [0.4, 0.8]])
    drawn = alone(2, resamples=4000, seed=3).means(ndcg)
    assert drawn.min() == pytest.approx(0.2)
    assert drawn.max() == pytest.approx(0.8)
    # Variance of a mean of two draws: half of that of one, .1^2 and .2^2 by hand.
    assert drawn.var() == pytest.approx((0.01 + 0.04) / 2, rel=0.1)


def test_one_seed_leaves_the_samples():
    drawn = alone(2, resamples=4000, seed=3).means(np.array([[0.0, 1.0]]))
    assert sorted(set(drawn.tolist())) == [0.0, 0.5, 1.0]


def test_the_smallest_budget_within_the_tolerance():
    outcomes = [
        outcome("large", 100, [0.5, 0.5], 400),
        outcome("weak", 50, [0.479, 0.479], 200),
        outcome("better", 50, [0.48, 0.48], 200),
        outcome("bad", 10, [0.47, 0.47], 100),
    ]
    choice = choose(outcomes, alone(2, resamples=100, seed=1), tolerance=0.05)
    assert (choice.setting, choice.best) == ("better", "large")
    assert choice.difference == pytest.approx(-0.02)
    assert (choice.low, choice.high) == (pytest.approx(-0.02), pytest.approx(-0.02))
    assert choice.sure

    def chosen(tolerance):
        return choose(outcomes, alone(2, resamples=100, seed=1), tolerance=tolerance).setting

    assert chosen(0.06) == "bad"
    assert chosen(0.0) == "large"


def test_the_difference_is_paired():
    # Each sample loses .01, much less than the differences between samples.
    ndcg = np.linspace(0, 1, 50)
    outcomes = [outcome("large", 100, ndcg + 0.01, 400), outcome("small", 10, ndcg, 100)]
    choice = choose(outcomes, alone(50, resamples=300, seed=1), tolerance=0.05)
    assert choice.setting == "small"
    assert (choice.low, choice.high) == (pytest.approx(-0.01), pytest.approx(-0.01))


def test_a_wide_interval_is_not_sure():
    outcomes = [
        outcome("large", 100, [1.0, 0.0, 1.0, 0.0], 400),
        outcome("small", 10, [0.0, 1.0, 0.0, 0.98], 100),
    ]
    choice = choose(outcomes, alone(4, resamples=300, seed=1), tolerance=0.05)
    assert choice.setting == "small"
    assert choice.low < -0.05 < choice.high
    assert not choice.sure
