"""Prompts without a target, and consistency, inside a training with an engine in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.training.agreement import Agreement
from actors.training.loop import Worker
from actors.training.paced import PULLS
from jobs.training_log import read_log
from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import load_samples
from minirec.corpus.unlabelled import NO_TARGET
from minirec.rl.group import Group
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow

GRPO = TrainingConfig(
    rollouts_per_prompt=4, steps=4, checkpoint_steps=2, validation_steps=None, **SMALL
)
# Three of eight prompts, so that the workers have different numbers of them.
HALF = {"unlabelled": 0.375, "unlabelled_most": 0.5}
BOTH = {**HALF, "consistency": 0.5}
VARY = {"peak_memory_mib", "seconds", "rollout_seconds", "wait_seconds", "idle_seconds"}
FIGURES = ("reward", "dead_groups", "token_loss", "item_loss", "loss", "grad_norm")
AGREED = ("unlabelled_kept", "unlabelled_agreement", "unlabelled_weight", "unlabelled_items")


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, GRPO)
    return place


def spec(place, folder, changes=None, **settings):
    training = TrainingConfig.model_validate(GRPO.model_dump() | settings)
    whole = spec_of(place, training, folder=str(folder), steps=training.steps, longest=6)
    return replace(whole, pool=own_engine(whole.model_path), history=10, **(changes or {}))


def entries(spec):
    log = read_log(Path(spec.folder) / "log.jsonl")
    return [{k: v for k, v in entry.items() if k not in VARY} for entry in log]


def same(a, b, names=FIGURES):
    for one, two in zip(a, b, strict=True):
        for name in names:
            assert one[name] == pytest.approx(two[name], rel=2e-3, abs=1e-5), name


@pytest.fixture(scope="module")
def plain(place):
    """A training without any of the options."""
    found = spec(place, place / "plain")
    train(found)
    return found


def test_no_share_and_no_weight_have_the_bytes_of_today(place, tmp_path, plain):
    neutral = spec(
        place,
        tmp_path / "n",
        unlabelled_confidence=0.9,
        unlabelled_most=1.0,
        consistency_temperature=3.0,
    )
    train(neutral)
    assert weights(neutral) == weights(plain)
    assert entries(neutral) == entries(plain)


def test_prompts_without_a_target_change_the_training(place, tmp_path, plain):
    whole = spec(place, tmp_path / "u", **HALF)
    log = train(whole)
    assert weights(whole) != weights(plain)
    assert all(0 <= entry["unlabelled_weight"] <= entry["unlabelled_agreement"] for entry in log)
    assert any(entry["unlabelled_kept"] > 0 for entry in log)
    assert all(entry["rollouts"] == 8 * 4 for entry in log)


def test_dropped_prompts_leave_no_trace_in_the_item_loss(place, tmp_path):
    """With an impossible confidence, the labelled prompts train as they do alone, by a smaller
    share of the step."""
    dropped = spec(place, tmp_path / "d", rollouts_per_prompt=2, steps=1, **HALF)
    worker = Worker(dropped)
    seen = []

    class Nothing(Agreement):
        def labelled(self, step, groups, table):
            found = [g if g.target >= 0 else self._drop(g, groups[0].target) for g in groups]
            seen.append([g.labelled for g in found])
            return found, {}

        def _drop(self, group, target):
            return replace(group, target=target, weight=0.0, labelled=False)

    worker.agreement = Nothing(worker.engine, worker.objective)
    worker.step(0)
    fewer = spec(
        place,
        tmp_path / "f",
        rollouts_per_prompt=2,
        steps=1,
        prompts_per_step=5,
        prompts_per_micro_batch=5,
    )
    alone = train(fewer)[0]
    found = worker.log.entries[0]
    assert seen == [[True] * 5 + [False] * 3]
    for name in ("reward", "dead_groups"):
        assert found[name] == pytest.approx(alone[name], rel=1e-4)
    assert found["item_loss"] == pytest.approx(alone["item_loss"] * 5 / 8, rel=1e-3, abs=1e-6)


class Hidden:
    """A policy whose rollouts point at the items that their tokens name."""

    device = torch.device("cpu")

    def __call__(self, *, groups, logprobs):
        assert not logprobs
        rows = [completion[0] for group in groups for completion in group.completions]
        return torch.eye(6)[rows], None


def test_groups_get_the_majority_of_what_their_rollouts_rank_first():
    training = GRPO.model_copy(update={"unlabelled": 0.5, "unlabelled_most": 1.0})
    objective = Objective(training, temperature=1.0, cutoff=3, reward=ndcg)

    def group(first, target=NO_TARGET, excluded=()):
        written = [1] * len(first)
        return Group([0], [[item] for item in first], written, [*excluded], target)

    groups = [
        group([1, 1, 1, 1], target=2),
        group([4, 4, 3, 4]),
        group([4, 3, 4, 3]),
        # The policy points at an item of the history, so the items without a score are level.
        group([5, 5, 3, 3], excluded=[5, 0, 1, 2, 4]),
    ]
    found, figures = Agreement(Hidden(), objective).labelled(0, groups, torch.eye(6))
    assert found[0] is groups[0]
    assert [(g.target, g.weight, g.labelled) for g in found[1:]] == [
        (4, 0.75, False),
        (2, 0.0, False),
        (3, 1.0, False),
    ]
    assert figures == {
        "unlabelled_kept": pytest.approx(2 / 3),
        "unlabelled_agreement": pytest.approx((0.75 + 0.5 + 1) / 3),
        "unlabelled_weight": pytest.approx((0.75 + 1) / 3),
        "unlabelled_items": 2,
    }


def test_prompts_are_those_of_the_seed_and_the_step(place, tmp_path):
    worker = Worker(spec(place, tmp_path / "one", **HALF))
    again = Worker(spec(place, tmp_path / "two", **HALF, steps=2))
    last = {s.sample_id: s for s in load_samples(place / "corpus", "train")}
    for step in range(2):
        batch = worker.order.batch(step)
        assert batch == again.order.batch(step)
        assert [position for position, _ in batch] == [*range(8 * step, 8 * step + 8)]
        assert [s.target < 0 for _, s in batch] == [False] * 5 + [True] * 3
        for _, sample in batch[5:]:
            own = last[-2 - sample.sample_id]
            assert sample.history == [*own.history, *own.same_time, own.target][-10:]


def test_consistency_alone_acts_on_dead_groups(place, tmp_path, plain):
    log = train(spec(place, tmp_path / "c", consistency=1.0))
    assert all((e["consistency_loss"] > 0) == (e["dead_groups"] > 0) for e in log)
    assert log[0]["consistent_groups"] == log[0]["dead_groups"]
    # Two of four rollouts of each prompt are read once more.
    assert log[0]["forward_tokens"] > entries(plain)[0]["forward_tokens"]


@pytest.mark.parametrize(
    "settings", [BOTH, {**BOTH, "item_loss": "plackett_luce"}, {**HALF, "live_tokens": True}]
)
def test_micro_batches_change_only_rounding(place, tmp_path, settings):
    one = train(spec(place, tmp_path / "4", steps=2, **settings))
    small = {"steps": 2, "prompts_per_micro_batch": 1}
    two = train(spec(place, tmp_path / "1", **settings | small))
    more = ("consistency_loss", "consistent_groups") if "consistency" in settings else ()
    same(one, two, (*FIGURES, *AGREED, *more))


def test_two_workers_train_as_one(place, tmp_path):
    alone = spec(place, tmp_path / "one", **BOTH)
    train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    same(entries(alone), entries(both), (*FIGURES, *AGREED, "consistency_loss"))


@pytest.mark.parametrize(
    "settings",
    [BOTH, {**BOTH, "replays": 2}, {**BOTH, "staleness": 1}],
    ids=["plain", "replays", "staleness"],
)
def test_an_interrupted_training_ends_with_the_same_weights(place, tmp_path, settings):
    whole = spec(place, tmp_path / "whole", **settings)
    train(whole)
    cut = replace(whole, folder=str(tmp_path / "cut"))
    begun = Worker(cut)
    for step in range(2):
        begun.step(step)
    begun.checkpoint(2)
    begun.close()
    train(cut)
    assert weights(cut) == weights(whole)
    assert entries(cut) == entries(whole)


def test_replays_keep_their_pseudo_targets(place, tmp_path):
    log = train(spec(place, tmp_path / "r", replays=2, **HALF))
    for first, second in ((log[0], log[1]), (log[2], log[3])):
        assert [first[name] for name in AGREED] == [second[name] for name in AGREED]
        assert first["forward_tokens"] > second["forward_tokens"]


def test_an_expert_shows_items_of_samples_alone(place, tmp_path):
    log = train(spec(place, tmp_path / "e", expert="cooccurrence", **HALF))
    assert all(entry["expert_loss"] > 0 for entry in log)


def test_clusters_learn_from_samples_alone(place, tmp_path):
    selection = SelectionConfig(curriculum="self_paced", clusters=2)
    changes = {"arms": [i % 2 for i in range(64)], "selection": selection}
    paced = spec(place, tmp_path / "p", changes, **HALF)
    log = train(paced)
    pulls = read_table(Path(paced.folder) / PULLS)
    assert pulls["step"].to_pylist() == np.repeat(range(4), 5).tolist()
    assert min(pulls["sample_id"].to_pylist()) >= 0
    assert all(entry["unlabelled_agreement"] > 0 for entry in log)


def test_live_selection_chooses_the_samples(place, tmp_path):
    changes = {
        "live": LiveConfig(band=(0.02, 0.9), share=0.5),
        "selection": SelectionConfig(),
    }
    live = spec(place, tmp_path / "l", changes, **HALF)
    log = train(live)
    table = read_table(Path(live.folder) / "choices.parquet")
    assert table["step"].to_pylist() == np.repeat(range(4), 5).tolist()
    means = [sum(table["reward"].to_pylist()[5 * s : 5 * s + 5]) / 5 for s in range(4)]
    assert means == pytest.approx([entry["reward"] for entry in log], abs=1e-6)
