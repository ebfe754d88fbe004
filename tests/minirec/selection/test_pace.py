"""The bandit of the self-paced curriculum: cases by hand, and one arm that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.live import LiveConfig
from minirec.config.run import Config
from minirec.selection.live import FORCED, LiveSelection
from minirec.selection.pace import (
    ArmStats,
    Pulls,
    by_arms,
    draw_arms,
    history_means,
    thompson,
)

COUNT = np.array([3.0, 3.0])
NORMALS = np.array([[0.5, 1.0]])


def test_draws_by_hand():
    hard = thompson(ArmStats(COUNT, np.array([-0.2, -0.8])), NORMALS, noise=1)
    signal = thompson(ArmStats(COUNT, np.array([0.0, 0.3])), NORMALS, noise=1)
    assert hard[0].tolist() == pytest.approx([0.05, -0.3])
    assert signal[0].tolist() == pytest.approx([0.25, 0.8])


def pulls(*steps):
    found = Pulls()
    for step, (arms, lifts, signals) in enumerate(steps):
        found.add(
            step,
            np.arange(len(arms)),
            np.array(arms),
            np.array(lifts, float),
            np.array(signals, float),
        )
    return found


def test_values_by_hand():
    """Arm 0 has mean lifts .2 then .6, arm 1 has .8 once, arm 2 is never pulled. Memory .5."""
    found = pulls(
        ([0, 0, 1], [0.1, 0.3, 0.8], [0.0, 0.2, 0.3]),
        ([0, 0, 0], [0.5, 0.6, 0.7], [0.3, 0.3, 0.3]),
    )

    def stats(pace, before=2):
        return found.stats(arms=3, before=before, memory=0.5, pace=pace)

    assert stats("hard").value.tolist() == pytest.approx([-0.4, -0.8, -0.4])
    assert stats("signal").value.tolist() == pytest.approx([0.2, 0.3, 0.3])
    # Arm 0 was at .2 and is at .6. Nothing is known of arm 1 before its only step.
    assert stats("progress").value.tolist() == pytest.approx([0.4, 0.4, 0.4])
    assert stats("hard").count.tolist() == pytest.approx([4, 0.5, 0])
    assert stats("hard", before=1).value.tolist() == pytest.approx([-0.2, -0.8, -0.2])
    assert stats("signal", before=0).value.tolist() == [0, 0, 0]


def test_a_dead_cluster_is_left_by_signal_and_not_by_hard():
    """Cluster 0 earns nothing and has no spread; cluster 1 is learnt."""
    for pace, favourite in (("signal", 1), ("hard", 0)):
        found = pulls()
        for step in range(30):
            stats = found.stats(arms=2, before=step, memory=0.9, pace=pace)
            drawn = draw_arms(stats, places=8, noise=0.3, seed=step)
            found.add(
                step, np.arange(8), drawn, np.where(drawn, 0.5, 0.0), np.where(drawn, 0.3, 0.0)
            )
        late = np.concatenate([found.steps[step][1] for step in range(15, 30)])
        assert (late == favourite).mean() > 0.6


def test_an_arm_gives_each_sample_once_in_a_step_while_others_have_some():
    stats = ArmStats(np.zeros(3), np.array([9.0, 0.0, 0.0]))
    drawn = draw_arms(stats, places=6, noise=0.1, seed=1, sizes=np.array([2, 3, 0]))
    assert np.bincount(drawn, minlength=3)[:2].min() >= 2 and 2 not in drawn
    assert np.bincount(drawn).sum() == 6


def test_drawn_arms_come_first_in_their_order():
    arms = np.array([0, 0, 1, 1, 2])
    found = by_arms(np.array([10, 11, 12, 13, 14]), arms, np.array([1, 0, 1, 1, 7]))
    assert found.tolist() == [12, 10, 13, 11, 14]


@given(st.lists(st.integers(0, 99), unique=True, max_size=9), st.integers(0, 9))
def test_one_arm_changes_no_order(rows, places):
    rows = np.array(rows, np.int64)
    same = by_arms(rows, np.zeros(len(rows), np.int64), np.zeros(places, np.int64))
    assert same.tolist() == rows.tolist()


def test_one_arm_chooses_as_live_selection_without_arms():
    def chosen(drawn):
        live = LiveSelection(range(20), LiveConfig(band=(0.1, 0.9)), seed=1, prompts=4)
        live.see(FORCED, np.arange(12), np.linspace(0, 1, 12), at_pass=0)
        found = []
        for _ in range(4):
            choice = live.choose(live.candidates(), drawn=drawn)
            found.append((choice.rows.tolist(), choice.reasons, live.cursor))
        return found

    zeros = np.zeros(20, np.int64)
    assert chosen(None) == chosen((zeros, zeros[:4]))
    other = chosen((np.arange(20) % 2, np.ones(4, np.int64)))
    assert other != chosen(None)
    assert all(row % 2 for row in other[0][0])


def test_a_state_brings_back_the_pulls():
    found = pulls(([0, 1], [0.1, 0.2], [0.3, 0.4]), ([1, 1], [0.5, 0.6], [0.7, 0.8]))
    again = Pulls()
    again.restore(found.state())
    one, two = (p.stats(arms=2, before=2, memory=0.9, pace="signal") for p in (found, again))
    assert one.value.tolist() == two.value.tolist()


def test_history_means():
    table = np.array([[1.0, 0], [0, 1.0], [2.0, 2.0]])
    assert history_means([[0, 1], [], [2]], table).tolist() == [[0.5, 0.5], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"training": {"loss": "supervised"}}, "has none"),
        ({"training": {"item_candidates": "corrected"}}, "equal chances"),
        ({"live": {"rule": "value"}, "training": {"item_candidates": "batch"}}, "would both"),
    ],
)
def test_self_paced_with_what_it_cannot_do_is_refused(settings, why):
    live = {"mode": "live", "curriculum": "self_paced"}
    with pytest.raises(ValueError, match=why):
        Config.model_validate({"selection": live, **settings})
