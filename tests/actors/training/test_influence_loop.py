"""The rule influence of live selection inside a training, with an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, interrupted, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.training.influence import InfluenceOrder
from actors.training.loop import Worker
from actors.training.validation import Validation, goal_rows
from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import SampleFile
from minirec.model.tokens import FORWARD
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow

GRPO = TrainingConfig(
    rollouts_per_prompt=2, steps=5, checkpoint_steps=1, validation_steps=None, **SMALL
)
LIVE = LiveConfig(rule="influence", stage_steps=2, candidates=3, validation_samples=6)


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, GRPO)
    return place


def spec(place, folder, training=GRPO, **changes):
    whole = spec_of(place, training, folder=str(folder), steps=training.steps)
    pool = own_engine(whole.model_path) if training.rolls_out else None
    return replace(whole, pool=pool, live=LIVE, selection=SelectionConfig(), **changes)


def chosen(spec):
    table = read_table(Path(spec.folder) / "choices.parquet")
    return [table[name].to_pylist() for name in ("step", "sample_id", "reason")]


@pytest.mark.parametrize("loss", ["grpo", "supervised"])
def test_a_stage_takes_the_best_of_its_pool(place, tmp_path, loss):
    """Stages of 2, 2 and 1 steps measure 3 x 16, 3 x 16 and 3 x 8 samples, and 6 of the goal."""
    training = GRPO.model_copy(update={"loss": loss})
    one = spec(place, tmp_path / loss, training)
    log = train(one)
    assert [entry.get("choice_prompts") for entry in log] == [54, None, 54, None, 30]
    for entry in log[::2]:
        assert entry["choice_tokens"] >= FORWARD * entry["choice_prompts"]
        assert entry["forward_tokens"] > entry["choice_tokens"]
        assert -1 <= entry["pool_influence"] < entry["taken_influence"] <= 1
    steps, ids, reasons = chosen(one)
    assert steps == [step for step in range(5) for _ in range(8)]
    assert len(set(ids[:16])) == len(set(ids[16:32])) == 16 and set(reasons) == {"influence"}


def test_the_goal_are_validation_samples_that_no_validation_reads(place, tmp_path):
    training = GRPO.model_copy(update={"loss": "supervised", "validation_steps": 5})
    one = spec(place, tmp_path / "goal", training)
    worker = Worker(one)
    assert isinstance(worker.order.order, InfluenceOrder)
    goal = {sample.sample_id for sample in worker.order.order.goal_samples}
    validation = Validation(one, encoder=worker.encoder, catalogue=worker.catalogue, prior=None)
    read = {sample.sample_id for sample in validation.samples}
    valid = SampleFile(Path(one.corpus), "valid")
    assert len(goal) == 6 and not goal & read
    assert goal | read == set(valid.ids(list(range(len(valid)))))
    assert goal_rows(replace(one, live=LiveConfig()), len(valid)) == []


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_interrupted_training_ends_with_the_same_bytes(place, tmp_path, staleness):
    training = GRPO.model_copy(update={"staleness": staleness})
    whole = spec(place, tmp_path / "whole", training)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    assert chosen(cut) == chosen(whole)


def test_two_workers_choose_as_one(place, tmp_path):
    alone = spec(place, tmp_path / "one")
    log = train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    assert chosen(both) == chosen(alone)
    assert len(log) == 5
