"""Clusters, drawn lists and a horizon inside a training, with an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, interrupted, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.training.paced import PULLS
from minirec.config.live import LiveConfig
from minirec.config.scoring import RewardConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow

GRPO = TrainingConfig(
    rollouts_per_prompt=2, steps=6, checkpoint_steps=2, validation_steps=None, **SMALL
)
LISTS = GRPO.model_copy(update={"item_loss": "plackett_luce"})
PACED = SelectionConfig(curriculum="self_paced", clusters=3)


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, GRPO)
    return place


def spec(place, folder, training=LISTS, clusters=3, **changes):
    whole = spec_of(place, training, folder=str(folder), steps=training.steps)
    arms = [i % clusters for i in range(len(whole.order))] if clusters else ()
    found = replace(whole, pool=own_engine(whole.model_path), selection=PACED, arms=arms)
    return replace(found, reward=RewardConfig(horizon=3), **changes)


def live(place, folder, training=LISTS, rule="band"):
    choosing = LiveConfig(band=(0.02, 0.9), share=0.5, rule=rule)
    return spec(place, folder, training, clusters=0, live=choosing)


def pulls(spec):
    return read_table(Path(spec.folder) / PULLS)


def test_one_cluster_trains_as_the_order_of_the_selection(place, tmp_path):
    alone, fixed = (
        spec(place, tmp_path / "one", clusters=1),
        spec(place, tmp_path / "none", clusters=0),
    )
    train(alone)
    train(fixed)
    assert weights(alone) == weights(fixed)


def test_the_lists_and_the_clusters_are_in_the_log(place, tmp_path):
    paced = spec(place, tmp_path / "paced")
    log = train(paced)
    assert all(0 <= entry["live_lists"] <= 1 for entry in log)
    assert all(sum(entry[f"arm_{arm}"] for arm in range(3)) == 8 for entry in log)
    table = pulls(paced)
    assert table.num_rows == 6 * 8
    assert set(table["arm"].to_pylist()) == {0, 1, 2}
    assert sum(entry["arm_1"] for entry in log) == table["arm"].to_pylist().count(1)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("kind", ["static", "band", "skip"])
def test_an_interrupted_training_ends_with_the_same_bytes(place, tmp_path, kind, staleness):
    training = LISTS.model_copy(update={"staleness": staleness})
    if kind == "static":
        whole = spec(place, tmp_path / "whole", training)
    else:
        whole = live(place, tmp_path / "whole", training, kind)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    assert pulls(cut).equals(pulls(whole))


@pytest.mark.parametrize("kind", ["static", "band", "skip"])
def test_two_workers_draw_as_one(place, tmp_path, kind):
    folder = tmp_path / "one"
    alone = spec(place, folder) if kind == "static" else live(place, folder, rule=kind)
    train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    one, two = pulls(alone).to_pydict(), pulls(both).to_pydict()
    assert (one["sample_id"], one["arm"]) == (two["sample_id"], two["arm"])
    assert two["signal"] == pytest.approx(one["signal"], abs=1e-4)


@pytest.mark.parametrize("kind", ["plackett_luce", "pairs"])
def test_supervision_can_draw_lists_too(place, tmp_path, kind):
    training = GRPO.model_copy(update={"loss": "supervised", "item_loss": kind})
    whole = spec(place, tmp_path / kind, training, clusters=0, live=None)
    log = train(replace(whole, pool=None, selection=None))
    assert all(entry["list_reward"] > 0 for entry in log)
