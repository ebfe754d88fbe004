"""Live selection: the stream, the memory, the choice of a step, and its record."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.corpus import schema
from minirec.selection.live import (
    ALIVE,
    FORCED,
    IN_BAND,
    NEAREST,
    RETRIED,
    ROLLOUTS,
    UNKNOWN,
    VALUE,
    LiveSelection,
    Memory,
    Stream,
    ValueRule,
)
from minirec.selection.live_record import Record, as_selection, eligible, summary

BAND = LiveConfig(band=(0.1, 0.9), candidates=2)


def selection(samples=10, prompts=3, settings=BAND, seed=1):
    """Sample ids are 100, 101, ..."""
    return LiveSelection(range(100, 100 + samples), settings, seed=seed, prompts=prompts)


def rows(*values):
    return np.array(values, np.int64)


def know(live, lifts, kind=FORCED):
    live.see(kind, np.arange(len(lifts)), np.array(lifts, float), at_pass=0)


def test_each_pass_of_the_stream_has_every_row_in_another_order():
    stream = Stream(20, seed=3)
    passes = [[stream.at(p)[1] for p in range(20 * n, 20 * (n + 1))] for n in range(3)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert [stream.at(p)[0] for p in (0, 19, 20, 40)] == [0, 0, 1, 2]
    assert passes[0] == [Stream(20, seed=3).at(p)[1] for p in range(20)]
    assert passes[0] != [Stream(20, seed=4).at(p)[1] for p in range(20)]


def test_forced_lifts_are_the_newest_and_those_of_rollouts_decay():
    memory = Memory(2, LiveConfig(decay=0.7))
    for lift in (0.5, 0.1):
        for kind in (FORCED, ROLLOUTS):
            memory.see(kind, rows(1), np.array([lift]), at_pass=0)
    assert memory.lift[FORCED, 1] == 0.1
    assert memory.lift[ROLLOUTS, 1] == pytest.approx(0.7 * 0.5 + 0.3 * 0.1)
    assert np.isnan(memory.lift[:, 0]).all()


def test_a_sample_twice_below_the_band_is_on_hold_for_one_two_and_four_passes():
    memory, back = Memory(1, BAND), []
    for at_pass in (0, 1, 3, 6):
        memory.see(FORCED, rows(0), np.array([0.0]), at_pass=at_pass)
        back.append(int(memory.back[0]))
    # On hold in pass 2, then in 4 and 5, then in 7, 8, 9 and 10.
    assert back == [0, 3, 6, 11]


def test_two_kinds_of_low_lifts_in_one_step_hold_once():
    memory = Memory(1, BAND)
    memory.low[:] = 1
    for kind in (FORCED, ROLLOUTS):
        memory.see(kind, rows(0), np.array([0.0]), at_pass=4)
    assert memory.back[0] == 6 and memory.holds[0] == 1


def test_a_lift_inside_the_band_ends_the_row_of_low_ones():
    memory = Memory(1, BAND)
    for lift in (0.0, 0.5, 0.0):
        memory.see(FORCED, rows(0), np.array([lift]), at_pass=0)
    assert memory.back[0] == 0
    memory.see(ROLLOUTS, rows(0), np.array([0.0]), at_pass=0)  # the other kind counts apart
    assert memory.back[0] == 0


def test_the_distance_counts_the_kind_that_is_farther_outside():
    live = selection(samples=4)
    know(live, [0.5, 0.05, 0.5])
    live.see(ROLLOUTS, rows(2), np.array([1.0]), at_pass=0)
    assert live.memory.distance(np.arange(4))[:3] == pytest.approx([0, 0.05, 0.1])
    assert np.isnan(live.memory.distance(rows(3)))


def test_candidates_are_the_next_of_the_stream_but_those_on_hold():
    live = selection(samples=10, prompts=3)
    order = [live.stream.at(p)[1] for p in range(10)]
    assert live.candidates().rows.tolist() == order[:6]
    live.memory.back[order[1]] = 5
    assert live.candidates().rows.tolist() == [order[0], *order[2:7]]


def test_if_all_are_on_hold_those_that_come_back_first_fill_the_step():
    live = selection(samples=4, prompts=3)
    live.memory.back[:] = [9, 2, 3, 1]
    assert sorted(live.candidates().rows.tolist()) == [1, 2, 3]


def test_unknown_samples_are_measured_first_and_fresh_ones_not_at_all():
    live = selection(samples=6, prompts=3)
    found = live.candidates()
    assert live.to_measure(found).tolist() == found.rows.tolist()
    know(live, [0.5] * 6)
    assert not len(live.to_measure(found))
    live.cursor = 12  # pass 2
    live.see(FORCED, rows(4), np.array([0.5]), at_pass=2)
    live.memory.measured[3] = 1
    urgent = live.to_measure(live.candidates()).tolist()
    assert sorted(urgent) == [0, 1, 2, 3, 5] and urgent[-1] == 3


def test_a_step_takes_those_in_the_band_in_the_order_of_the_stream():
    live = selection(samples=10, prompts=3)
    order = [live.stream.at(p)[1] for p in range(10)]
    lifts = np.full(10, 0.5)
    lifts[order[1]] = 1.0
    know(live, lifts)
    choice = live.choose(live.candidates())
    assert choice.rows.tolist() == [order[0], order[2], order[3]]
    assert choice.reasons == [IN_BAND] * 3
    assert live.cursor == 4  # later candidates are those of the next step too
    assert live.candidates().rows[0] == order[4]


def test_a_step_is_filled_up_with_unknown_and_then_with_the_nearest():
    live = selection(samples=6, prompts=4, settings=LiveConfig(band=(0.1, 0.9), candidates=3))
    order = live.candidates().rows.tolist()
    lifts = {order[0]: 1.0, order[1]: 0.5, order[2]: 0.0, order[3]: 0.05, order[4]: 0.95}
    live.see(FORCED, rows(*lifts), np.array([*lifts.values()]), at_pass=0)
    choice = live.choose(live.candidates())
    near = sorted([order[3], order[4]])  # equally far, so the smaller id comes first
    assert choice.rows.tolist() == [order[1], order[5], *near]
    assert choice.reasons == [IN_BAND, UNKNOWN, NEAREST, NEAREST]
    assert live.cursor == 6


def test_rows_for_their_value_come_first():
    live = selection(samples=8, prompts=3)
    know(live, [0.5] * 8)
    found = live.candidates()
    choice = live.choose(found, first=found.rows[4:5])
    assert choice.rows.tolist() == [found.rows[4], *found.rows[:2]]
    assert choice.reasons == [VALUE, IN_BAND, IN_BAND]


def test_fewer_samples_than_a_step_are_refused():
    with pytest.raises(ValueError, match="chooses 3 of only 2 samples"):
        selection(samples=2, prompts=3)


@given(
    samples=st.integers(3, 40),
    candidates=st.integers(1, 4),
    lifts=st.lists(st.floats(-0.5, 1.0), min_size=40, max_size=40),
    steps=st.integers(1, 12),
)
def test_every_step_is_full_and_a_restored_state_goes_on_alike(samples, candidates, lifts, steps):
    settings = LiveConfig(band=(0.1, 0.9), candidates=candidates)
    first, second = (selection(samples, 3, settings) for _ in range(2))
    for step in range(steps):
        if step == steps // 2:
            second = selection(samples, 3, settings)
            second.restore({k: np.array(v) for k, v in first.state().items()})
        choices = []
        for live in (first, second):
            found = live.candidates()
            assert len(set(found.rows.tolist())) == len(found.rows)
            measured = live.to_measure(found)[:2]
            live.see(FORCED, measured, np.array(lifts)[measured], at_pass=found.at_pass)
            choice = live.choose(found)
            live.see(ROLLOUTS, choice.rows, np.array(lifts)[choice.rows], at_pass=found.at_pass)
            choices.append(choice)
        assert choices[0].rows.tolist() == choices[1].rows.tolist()
        assert choices[0].reasons == choices[1].reasons
        assert len(set(choices[0].rows.tolist())) == 3
        if step < steps // 2:
            second.restore(first.state())


def test_a_corpus_of_solved_samples_is_trained_all_the_same():
    live = selection(samples=6, prompts=3)
    know(live, [1.0] * 6)
    assert live.choose(live.candidates()).reasons == [NEAREST] * 3


def test_value_picks_the_learnable_and_leaves_a_copy():
    rule = ValueRule(LiveConfig(), SelectionConfig(mu=0.5, sigma=0.3))
    directions = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 0.0], [0.0, 1.0]])
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
    lifts = np.array([0.5, 0.49, 0.3, 0.5, -0.5])
    assert rule.pick(lifts, directions, embeddings, count=2).tolist() == [0, 2]
    assert rule.mean == pytest.approx(0.3 * directions.mean(0))
    assert rule.pick(lifts, directions, embeddings, count=9).tolist() == [0, 2, 1, 4]
    one = slice(3, 4)  # it has no direction
    assert not len(rule.pick(lifts[one], directions[one], embeddings[one], count=2))


def recorded():
    live, record = selection(samples=6, prompts=2), Record()
    know(live, [0.5, 0.0, 0.5, 0.5, 0.5, 0.5])
    for step in range(4):
        record.add(step, live, live.choose(live.candidates()))
        record.reward(step, np.array([0.2, 0.4]), np.array([0.3, 0.6]))
    return record


def test_a_record_is_a_table_and_survives_a_restart():
    record, again = recorded(), Record()
    again.restore({name: np.array(values) for name, values in record.state().items()})
    assert again.table().equals(record.table())
    table = record.table()
    assert table.schema.equals(schema.CHOICES)
    assert table["step"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert table["reward"].to_pylist() == [0.3, 0.6] * 4
    assert table["lift"].to_pylist() == [0.5] * 8


def test_a_step_that_was_not_trained_is_left_out():
    record = recorded()
    kept = record.table(without={3})
    assert kept["step"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert kept["sample_id"].to_pylist() == record.table()["sample_id"].to_pylist()[:6]


def test_the_selection_has_each_sample_once_in_the_order_of_training():
    table = pa.table(
        {
            "step": [0, 0, 1, 1, 2, 2, 3, 3],
            "reason": [IN_BAND] * 8,
            "sample_id": [7, 3, 3, 9, 1, 7, 9, 4],
            "lift": [0.5] * 8,
            "rollout_lift": [0.5] * 8,
            "reward": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        },
        schema=schema.CHOICES,
    )
    found = as_selection(table)
    assert found.schema.equals(schema.SELECTION)
    assert found["sample_id"].to_pylist() == [7, 3, 9, 1, 4]
    assert found["rank"].to_pylist() == [0, 1, 2, 3, 4]
    assert found["group"].to_pylist() == [0, 0, 1, 2, 3]
    assert found["mean_reward"].to_pylist() == [0.1, 0.2, 0.4, 0.5, 0.8]


def test_a_summary_counts_what_was_outside_the_band():
    table = recorded().table()
    reasons = [IN_BAND] * 5 + [UNKNOWN] + [NEAREST] * 2
    table = table.set_column(1, "reason", pa.array(reasons))
    first, second = summary(table, samples=6, band=(0.1, 0.9))
    assert first.startswith("8 prompts of 5 samples, 83% of the corpus; 62% were known")
    assert second.startswith("2 of them were outside the band 0.1 to 0.9")
    assert len(summary(recorded().table(), samples=6, band=(0.1, 0.9))) == 1


def test_what_would_be_trained_is_counted_by_known_lifts():
    said = eligible([0.0, 0.5, 1.0, 0.1, float("nan")], (0.1, 0.9))
    assert said is not None and "25% of 4 samples are hopeless (lift below 0.1)" in said
    assert said.endswith("50% learnable, 25% solved (above 0.9)")
    assert eligible([float("nan")], (0.1, 0.9)) is None


SKIP = LiveConfig(rule="skip", explore=0.5, candidates=2)


def test_the_rule_skip_measures_nothing_and_follows_the_stream_at_first():
    live = selection(settings=SKIP)
    stream = Stream(10, seed=1)
    found = []
    for _ in range(3):
        candidates = live.candidates()
        assert not len(live.to_measure(candidates))
        choice = live.choose(candidates)
        assert choice.reasons == [UNKNOWN] * 3
        found += choice.rows.tolist()
    assert found == [stream.at(p)[1] for p in range(9)]


def test_dead_samples_are_skipped_with_rising_probability():
    """Of many rows, half come back after one dead group, an eighth after three in a row."""
    for times, share in ((0, 1), (1, 0.5), (3, 0.125)):
        live = LiveSelection(range(4000), SKIP, seed=2, prompts=1)
        for _ in range(times):
            live.see_spread(np.arange(4000), np.zeros(4000), floor=1e-3)
        taken = [live._passed_over(1, row) is None for row in range(4000)]
        assert np.mean(taken) == pytest.approx(share, abs=0.03)


def test_a_group_that_differs_brings_a_sample_back():
    live = selection(settings=LiveConfig(rule="skip", explore=0.0, candidates=3))
    live.see_spread(np.arange(10), np.where(np.arange(10) < 6, 0.0, 0.2), floor=1e-3)
    choice = live.choose(live.candidates())
    assert set(choice.rows.tolist()) <= {6, 7, 8, 9} and choice.reasons == [ALIVE] * 3
    live.see_spread(rows(0), np.array([0.5]), floor=1e-3)
    assert 0 in live.candidates().rows


def test_where_nearly_all_are_dead_those_that_were_dead_for_the_shortest_time_fill_up():
    live = selection(settings=LiveConfig(rule="skip", explore=0.0, candidates=3))
    for n in range(3):
        live.see_spread(np.arange(10 - n), np.zeros(10 - n), floor=1e-3)
    choice = live.choose(live.candidates())
    assert {9, 8} <= set(choice.rows.tolist()) and choice.reasons == [RETRIED] * 3


def test_a_restart_of_the_rule_skip_chooses_the_same():
    def step(live):
        choice = live.choose(live.candidates())
        live.see_spread(choice.rows, choice.rows % 2 * 0.1, floor=1e-3)
        return choice.rows.tolist()

    one, two = selection(settings=SKIP), selection(settings=SKIP)
    for _ in range(6):
        step(one)
    two.restore({name: np.copy(values) for name, values in one.state().items()})
    assert [step(one) for _ in range(6)] == [step(two) for _ in range(6)]
