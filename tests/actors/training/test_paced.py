"""The self-paced order: one arm is the order of the selection, and a restart changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from actors.training.order import FixedOrder
from actors.training.paced import PULLS, PacedOrder
from minirec.config.selection import SelectionConfig
from minirec.corpus.table import Sample
from minirec.store.tables import read_table

ORDER = [4, 9, 2, 7, 5, 1]
SAMPLES = {i: Sample(i, [], 0) for i in ORDER}


def paced(arms, staleness=0, prompts=4):
    return PacedOrder(
        ORDER,
        arms,
        SAMPLES,
        prompts=prompts,
        settings=SelectionConfig(curriculum="self_paced"),
        seed=3,
        staleness=staleness,
        chance=0.0,
    )


def results(order, step):
    """Clusters 0 and 1 have other results."""
    return [(0.1 * s.sample_id, 0.2, 0.05 * s.sample_id) for _, s in order.batch(step)]


def train(order, steps, staleness=0, first=0, saved=None):
    """The batches of the steps; a checkpoint is written before the step `saved[0]`."""
    found = []
    for step in range(first, steps):
        if saved and step == saved[0]:
            order.save(saved[1])
        for one in range(step, min(step + 1 + staleness, steps)):
            order.prepare(one, None)
        found.append(order.batch(step))
        order.learned(step, results(order, step))
    return found


def test_one_arm_is_the_order_of_the_selection():
    order, fixed = paced([0] * 6), FixedOrder(ORDER, SAMPLES, prompts=4)
    assert train(order, 5) == [fixed.batch(step) for step in range(5)]


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_restart_draws_the_same_samples(tmp_path, staleness):
    arms = [0, 1, 0, 1, 1, 0]
    whole = train(paced(arms, staleness), 6, staleness, saved=(3, tmp_path))
    again = paced(arms, staleness)
    again.restore(tmp_path)
    assert train(again, 6, staleness, first=3) == whole[3:]


def test_a_step_ahead_does_not_know_the_step_before(tmp_path):
    """With staleness 1 the draws are the same whether or not the results have come in."""
    arms = [0, 1, 0, 1, 1, 0]
    early, late = paced(arms, 1), paced(arms, 1)
    early.prepare(0, None), early.prepare(1, None)
    late.prepare(0, None)
    late.learned(0, results(late, 0))
    late.prepare(1, None)
    assert early.batch(1) == late.batch(1)


def test_samples_of_an_arm_come_in_turn_and_the_pulls_are_written(tmp_path):
    arms = [0, 1, 0, 1, 1, 0]
    order = paced(arms, prompts=2)
    batches = train(order, 8)
    order.finish(tmp_path)
    table = read_table(tmp_path / PULLS).to_pydict()
    ids = [s.sample_id for batch in batches for _, s in batch]
    assert table["sample_id"] == ids
    assert table["arm"] == [arms[ORDER.index(i)] for i in ids]
    assert np.allclose(table["lift"], 0.1 * np.array(ids))
    for arm in (0, 1):
        own = [i for i, a in zip(ORDER, arms, strict=True) if a == arm]
        drawn = [i for i in ids if i in own]
        assert drawn == [own[n % len(own)] for n in range(len(drawn))]
