"""Screened samples and savings, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from minirec.config.scoring import ScoringConfig
from minirec.selection.screening import drawn, in_doubt, outside, savings


def test_outside_compares_the_lift_with_both_bounds():
    # chance 0.2: lift 0 is NDCG 0.2, lift 0.1 is 0.28, lift 0.5 is 0.6.
    found = outside([0.1, 0.2, 0.27, 0.29, 0.59, 0.61, 1.0], chance=0.2, band=(0.1, 0.5))
    assert found.tolist() == [True, True, True, False, False, True, True]
    assert not outside([0.29, 1.0], chance=0.2, band=(0.1, 1.0)).any()


def test_drawn_depends_on_seed_and_id_alone():
    ids = list(range(4000))
    chosen = drawn(ids, seed=3, share=0.05)
    assert np.array_equal(drawn(ids[::-1], seed=3, share=0.05)[::-1], chosen)
    assert drawn([17], seed=3, share=0.05)[0] == chosen[17]
    assert 0.04 < chosen.mean() < 0.06
    assert not np.array_equal(drawn(ids, seed=4, share=0.05), chosen)
    assert drawn(ids, seed=3, share=1).all() and not drawn(ids, seed=3, share=0).any()
    # A larger share keeps the samples of a smaller one.
    assert drawn(ids, seed=3, share=0.2)[chosen].all()


def test_in_doubt_where_completions_disagree():
    ndcg = [[0.2, 0.25, 0.2], [0.2, 0.2, 0.31], [1.0, 1.0], [1.0, 0.5, 1.0, 0.7]]
    assert in_doubt(ndcg, spread=0.1) == [False, True, False, True]
    assert in_doubt([], spread=0.1) == []
    assert in_doubt([[0.3]], spread=0.0) == [False]


HALVES = (slice(0, 2), slice(2, 6))


def test_savings_by_hand():
    features = {
        "ndcg": [[], [0.2, 0.2], [0.4, 0.4, 0.4, 0.8], [1.0, 1.0], [0.2, 0.2], []],
        "screened": [True, False, False, False, False, True],
        "control": [False, True, True, False, True, False],
        "screen_ndcg": [0.1, 0.2, 0.25, 0.9, 0.21, 0.2],
        "rollout_tokens": [0, 7, 9, 5, 6, 0],
    }
    halves = [{name: values[at] for name, values in features.items()} for at in HALVES]
    found = savings(halves, most=4, chance=0.2, band=(0.1, 1.0))
    assert found.tokens == 27
    # 2 + 4 + 2 + 2 sampled and 4 greedy ones; 6 samples of 5 in full.
    assert (found.rollouts, found.full) == (14, 30)
    assert (found.samples, found.screened, found.control, found.both) == (6, 2, 3, 4)
    # Lifts of the controls: 0, (0.5 - 0.2) / 0.8 = 0.375, 0.
    assert found.lost == 1
    # Ranks of the screen 1 3 4 2, of the rollouts 1.5 3 4 1.5: covariance 4.5 of sqrt(5 x 4.5).
    assert found.correlation == pytest.approx(4.5 / np.sqrt(5 * 4.5))
    text = found.sentence()
    assert "14 rollouts instead of 30 (47%); 2 of 6 samples screened; of 3 control" in text


def test_savings_without_a_screen():
    features = {
        "ndcg": [[0.5, 0.5], [0.1, 0.9, 0.3, 0.3]],
        "screened": [False, False],
        "control": [False, False],
        "screen_ndcg": [None, None],
        "rollout_tokens": [3, 4],
    }
    found = savings([features], most=4, chance=0.2, band=(0.1, 1.0))
    assert (found.rollouts, found.full, found.both, found.correlation) == (8, 10, 0, None)
    assert found.sentence() == "8 rollouts instead of 10 (80%)"


def test_a_band_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match=r"\[0.5, 0.1\] must rise"):
        ScoringConfig(screen_band=(0.5, 0.1))
