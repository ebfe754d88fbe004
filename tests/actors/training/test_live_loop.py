"""Live selection inside a training, with an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, interrupted, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from jobs.training_log import read_log
from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow

GRPO = TrainingConfig(
    rollouts_per_prompt=2, steps=6, checkpoint_steps=2, validation_steps=None, **SMALL
)
LIVE = LiveConfig(band=(0.02, 0.9), share=0.5)
VARY = {"peak_memory_mib", "seconds", "choice_seconds", "rollout_seconds", "wait_seconds"}
VARY |= {"idle_seconds"}


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, GRPO)
    return place


def spec(place, folder, training=GRPO, live=LIVE, **changes):
    whole = spec_of(place, training, folder=str(folder), steps=training.steps)
    pool = own_engine(whole.model_path) if training.loss == "grpo" else None
    return replace(whole, pool=pool, live=live, selection=SelectionConfig(), **changes)


def choices(spec):
    return read_table(Path(spec.folder) / "choices.parquet")


def chosen(spec):
    table = choices(spec)
    return [table[name].to_pylist() for name in ("step", "sample_id", "reason")]


def entries(spec):
    log = read_log(Path(spec.folder) / "log.jsonl")
    return [{k: v for k, v in entry.items() if k not in VARY} for entry in log]


def test_each_step_takes_other_samples_and_notes_their_rollouts(place, tmp_path):
    live = spec(place, tmp_path / "live")
    log = train(live)
    table = choices(live)
    assert table.num_rows == 6 * 8
    for step in range(6):
        assert len(set(table["sample_id"].to_pylist()[8 * step : 8 * step + 8])) == 8
    assert all(-1 < lift <= 1 for lift in table["rollout_lift"].to_pylist())
    means = [sum(table["reward"].to_pylist()[8 * s : 8 * s + 8]) / 8 for s in range(6)]
    assert means == pytest.approx([entry["reward"] for entry in log], abs=1e-6)
    for entry in log:
        parts = [entry[f"chosen_{why}"] for why in ("in_band", "unknown", "nearest", "value")]
        assert sum(parts) == 8


def test_measuring_stays_below_its_share_of_the_cost(place, tmp_path):
    for share in (0.0, 0.2):
        live = spec(place, tmp_path / f"{share}", live=LIVE.model_copy(update={"share": share}))
        log = train(live)
        spent = [sum(e[name] for e in log) for name in ("choice_tokens", "forward_tokens")]
        assert spent[0] <= share * spent[1]
        assert (spent[0] > 0) == (share > 0)
    assert sum(entry["choice_prompts"] for entry in log) > 0


def test_micro_batches_change_no_choice(place, tmp_path):
    found = []
    for size in (8, 2):
        training = GRPO.model_copy(update={"prompts_per_micro_batch": size})
        live = spec(place, tmp_path / str(size), training)
        train(live)
        found.append(chosen(live))
    assert found[0] == found[1]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("rule", ["band", "value"])
def test_an_interrupted_training_makes_the_same_choices(place, tmp_path, staleness, rule):
    training = GRPO.model_copy(update={"staleness": staleness})
    whole = spec(place, tmp_path / "whole", training, LIVE.model_copy(update={"rule": rule}))
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    files = [Path(one.folder) / "choices.parquet" for one in (cut, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert entries(cut) == entries(whole)


@pytest.mark.parametrize(("rule", "staleness"), [("band", 0), ("value", 1)])
def test_two_workers_make_the_choices_of_one(place, tmp_path, rule, staleness):
    training = GRPO.model_copy(update={"staleness": staleness})
    alone = spec(place, tmp_path / "one", training, LIVE.model_copy(update={"rule": rule}))
    train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    assert chosen(both) == chosen(alone)
    for name in ("lift", "reward"):
        one, two = (choices(one)[name].to_pylist() for one in (alone, both))
        assert two == pytest.approx(one, abs=1e-4, nan_ok=True)


def test_a_limit_of_the_cost_leaves_out_the_step_that_was_only_chosen(place, tmp_path):
    log = train(spec(place, tmp_path / "whole"))
    limit = sum(entry["forward_tokens"] for entry in log[:3])
    training = GRPO.model_copy(update={"staleness": 1, "token_limit": limit})
    live = spec(place, tmp_path / "limited", training)
    steps = len(train(live))
    assert 0 < steps < 6
    table = choices(live)
    assert sorted(set(table["step"].to_pylist())) == list(range(steps))
    assert all(reward == reward for reward in table["reward"].to_pylist())  # no NaN


def test_supervision_can_choose_live_too(place, tmp_path):
    training = GRPO.model_copy(update={"loss": "supervised"})
    live = spec(place, tmp_path / "supervised", training, LIVE.model_copy(update={"share": 0.9}))
    log = train(live)
    assert sum(entry["choice_prompts"] for entry in log) > 0
    assert all(reward != reward for reward in choices(live)["reward"].to_pylist())  # NaN


def test_known_lifts_are_used_from_the_first_step(place, tmp_path):
    nan = float("nan")
    whole = spec(place, tmp_path / "known", live=LIVE.model_copy(update={"share": 0.0}))
    good = set(whole.order[10:40])
    lifts = [(i, 0.5 if i in good else 1.0, nan) for i in whole.order]
    live = replace(whole, lifts=lifts, steps=2)
    train(live)
    table = choices(live)
    assert set(table["sample_id"].to_pylist()) <= good
    assert set(table["reason"].to_pylist()) == {"in band"}


def test_the_rule_value_takes_some_for_their_value(place, tmp_path):
    live = spec(place, tmp_path / "value", live=LIVE.model_copy(update={"rule": "value"}))
    log = train(live)
    assert all(0 < entry["chosen_value"] <= 4 for entry in log)
