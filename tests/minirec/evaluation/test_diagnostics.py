"""Diagnostics of a comparison, by hand-computed cases."""

import numpy as np
import pytest

from minirec.evaluation.diagnostics import datamodel_score, overlaps, shared

DRAWS = {"resamples": 200, "seed": 3}


def test_what_two_selections_share_by_hand():
    assert shared(np.array([1, 2, 3, 4]), np.array([4, 3, 9])) == pytest.approx(2 / 3)
    assert shared(np.array([1]), np.array([2])) == 0


def test_overlap_pairs_equal_seeds_and_a_method_with_itself_between_its_seeds():
    found = overlaps(
        {
            "a": {1: np.array([1, 2]), 2: np.array([2, 3]), 3: np.array([7, 8])},
            "b": {1: np.array([1, 2]), 2: np.array([4, 5])},
            "c": {9: np.array([1, 2])},
        }
    )
    assert found["a", "b"] == found["b", "a"] == 0.5  # seed 1 all, seed 2 nothing
    assert found["a", "a"] == pytest.approx(0.5 / 3)  # only seeds 1 and 2 share one of two
    assert found["c", "c"] is None and found["a", "c"] is None


def test_a_score_that_is_the_utility_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    utility, noise = generator.random(500), generator.random(500)
    chosen = [generator.choice(500, 50, replace=False) for _ in range(40)]
    quality = [utility[rows].mean() ** 3 for rows in chosen]  # any rising function of the sum
    found = datamodel_score(utility, chosen, quality, **DRAWS)
    assert (found.correlation, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.runs == 40
    backwards = datamodel_score(-utility, chosen, quality, **DRAWS)
    assert backwards.correlation == pytest.approx(-1.0)
    other = datamodel_score(noise, chosen, quality, **DRAWS)
    assert other.low < 0 < other.high


def test_too_few_runs_or_a_constant_score_say_nothing():
    rows = [np.array([i]) for i in range(12)]
    quality = [float(i) for i in range(12)]
    assert datamodel_score(np.ones(12), rows, quality, **DRAWS) is None
    assert datamodel_score(np.arange(12.0), rows[:9], quality[:9], **DRAWS) is None
    with pytest.raises(ValueError, match="9 values of quality for 12 subsets"):
        datamodel_score(np.arange(12.0), rows, quality[:9], **DRAWS)
