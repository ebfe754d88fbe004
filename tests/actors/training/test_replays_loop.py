"""Steps on the same rollouts: what they share, with an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, interrupted, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.training.live import CHOICES
from actors.training.loop import Worker
from actors.training.order import DrawnOrder, FixedOrder
from actors.training.paced import PULLS
from jobs.training_log import read_log
from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow

REPLAYED = TrainingConfig(
    rollouts_per_prompt=4, steps=6, checkpoint_steps=2, validation_steps=None, replays=2, **SMALL
)
DPO = {"loss": "dpo"}
BEST = {"loss": "dpo", "imitate_best": 0.5, "preference_reference": "start"}
LIVE = LiveConfig(band=(0.02, 0.9), share=0.5)
PACED = SelectionConfig(curriculum="self_paced", clusters=3)
VARY = {"peak_memory_mib", "choice_seconds"}
VARY |= {"seconds", "rollout_seconds", "wait_seconds", "idle_seconds"}


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, REPLAYED)
    return place


def spec(place, folder, *, live=None, selection=None, arms=(), **settings):
    training = TrainingConfig.model_validate(REPLAYED.model_dump() | settings)
    whole = spec_of(place, training, folder=str(folder), steps=training.steps)
    pool = own_engine(whole.model_path)
    return replace(whole, pool=pool, live=live, selection=selection, arms=arms)


def chosen_live(place, folder, *, rule="band", selection=None, **settings):
    choosing = LIVE.model_copy(update={"rule": rule})
    selection = selection or SelectionConfig()
    return spec(place, folder, live=choosing, selection=selection, **settings)


def entries(spec):
    log = read_log(Path(spec.folder) / "log.jsonl")
    return [{k: v for k, v in entry.items() if k not in VARY} for entry in log]


def test_the_pairs_of_the_first_step_stay(place, tmp_path):
    """At this learning rate the rewards of the same rollouts change from step to step."""
    found = spec(place, tmp_path / "d", **DPO, replays=3, checkpoint_steps=3, learning_rate=0.05)
    worker = Worker(found)
    pairs = []
    for step in range(6):
        worker.step(step)
        pairs.append([group.choice for group in worker.drawing.kept])
    worker.close()
    assert len(pairs[0]) == 8 and None not in pairs[0]
    assert pairs[0] == pairs[1] == pairs[2] != pairs[3] == pairs[4] == pairs[5]
    rewards = [entry["reward"] for entry in worker.log.entries]
    assert len(set(rewards)) == 6
    # The margin grows from 0 on pairs that do not change.
    margins = [entry["preference_margin"] for entry in worker.log.entries]
    assert abs(margins[0]) < 1e-5 < margins[1] < margins[2]


@pytest.mark.parametrize("settings", [DPO, BEST, {"imitate_best": 0.5}])
def test_a_restart_in_the_middle_of_replays_ends_with_the_same_bytes(place, tmp_path, settings):
    whole = spec(place, tmp_path / "whole", **settings)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    assert entries(cut) == entries(whole)


@pytest.mark.parametrize("settings", [DPO | {"replays": 1}, DPO | {"replays": 3}, BEST])
def test_two_workers_prefer_as_one(place, tmp_path, settings):
    settings = settings | {"checkpoint_steps": 6}
    one, two = compared(place, tmp_path, spec(place, tmp_path / "one", **settings))
    replays = settings.get("replays", 2)
    for a, b in zip(one[:replays], two[:replays], strict=True):
        names = ("loss", "preference_loss", "preference_margin", "chosen_log_ratio", "grad_norm")
        for name in (*names, *(["best_loss"] if "best_loss" in a else [])):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5)


def test_live_selection_chooses_only_for_new_rollouts(place, tmp_path):
    found = chosen_live(place, tmp_path / "live")
    log = train(found)
    assert ["choice_tokens" in entry for entry in log] == [True, False] * 3
    assert [entry["rollouts"] for entry in log] == [32, 0] * 3
    table = read_table(Path(found.folder) / CHOICES)
    assert table["step"].to_pylist() == [0] * 8 + [2] * 8 + [4] * 8
    # The rewards in the table are those of the first step on the rollouts.
    means = table.to_pandas().groupby("step")["reward"].mean()
    assert [means[step] for step in (0, 2, 4)] == pytest.approx(
        [entry["reward"] for entry in log[::2]], rel=1e-5
    )
    spent = sum(entry["forward_tokens"] - entry.get("choice_tokens", 0) for entry in log)
    assert 0 < sum(entry.get("choice_tokens", 0) for entry in log) <= 0.5 * spent


def test_the_first_step_of_live_selection_is_that_without_replays(place, tmp_path):
    with_replays = chosen_live(place, tmp_path / "two")
    without = chosen_live(place, tmp_path / "one", replays=1)
    first, plain = train(with_replays)[0], train(without)[0]
    for name in ("loss", "reward", "grad_norm", "forward_tokens", "choice_tokens"):
        assert first[name] == plain[name]


@pytest.mark.parametrize(
    "settings",
    [{}, {"rule": "value"}, {"rule": "skip"}, {"selection": PACED}, DPO],
    ids=["band", "value", "skip", "paced", "dpo"],
)
def test_a_restart_of_live_selection_ends_with_the_same_bytes(place, tmp_path, settings):
    whole = chosen_live(place, tmp_path / "whole", **settings)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    assert entries(cut) == entries(whole)


def test_two_workers_choose_live_as_one(place, tmp_path):
    one, two = compared(place, tmp_path, chosen_live(place, tmp_path / "one"))
    for a, b in zip(one[:2], two[:2], strict=True):
        assert a.get("chosen_in_band") == b.get("chosen_in_band")
        for name in ("loss", "reward", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_a_paced_curriculum_draws_only_for_new_rollouts(place, tmp_path):
    found = spec(place, tmp_path / "p", selection=PACED, arms=[i % 3 for i in range(64)])
    log = train(found)
    assert ["arm_0" in entry for entry in log] == [True, False] * 3
    table = read_table(Path(found.folder) / PULLS)
    assert table["step"].to_pylist() == [0] * 8 + [2] * 8 + [4] * 8
    # No sample is passed over: those of each cluster come in the order of the selection.
    for arm in range(3):
        drawn = [i for i, a in zip(*columns(table, "sample_id", "arm"), strict=True) if a == arm]
        assert drawn == [i for at, i in enumerate(found.order) if at % 3 == arm][: len(drawn)]


def test_a_step_without_new_rollouts_has_the_samples_of_the_last():
    order = DrawnOrder(FixedOrder(range(100), {i: i for i in range(100)}, prompts=2, replays=3), 3)
    batches = [order.batch(step) for step in range(6)]
    assert batches[0] == batches[1] == batches[2] == [(0, 0), (1, 1)]
    assert batches[3] == batches[4] == batches[5] == [(2, 2), (3, 3)]


def columns(table, *names):
    return [table[name].to_pylist() for name in names]


def compared(place, tmp_path, alone):
    """The logs of a training by one worker and by two."""
    train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    return entries(alone), entries(both)
