"""An expert, replays and resets inside a training, with an engine in this process."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from helpers.loop import SMALL, interrupted, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two
from safetensors.torch import load

from jobs.training_log import read_log
from minirec.config.training import TrainingConfig
from minirec.store.tables import write_table

pytestmark = pytest.mark.slow

GRPO = TrainingConfig(
    rollouts_per_prompt=2, steps=6, checkpoint_steps=2, validation_steps=None, **SMALL
)
VARY = {"peak_memory_mib", "seconds", "rollout_seconds", "wait_seconds", "idle_seconds"}
EXPERTS = ("cooccurrence", "titles", "shortcut")


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, GRPO)
    return place


def spec(place, folder, *, stage=0, start=None, **settings):
    training = TrainingConfig.model_validate(GRPO.model_dump() | settings)
    whole = spec_of(place, training, folder=str(folder), steps=training.steps, zero_stage=stage)
    pool = own_engine(whole.model_path) if training.loss != "supervised" else None
    return replace(whole, pool=pool, start=start)


def entries(spec):
    log = read_log(Path(spec.folder) / "log.jsonl")
    return [{k: v for k, v in entry.items() if k not in VARY} for entry in log]


@pytest.fixture(scope="module")
def plain(place):
    """A training without any of the options."""
    found = spec(place, place / "plain")
    train(found)
    return found


def test_one_pass_and_no_expert_have_the_bytes_of_today(place, tmp_path, plain):
    neutral = spec(
        place, tmp_path / "n", expert_items=9, expert_weight=9.0, expert_alpha=1.0, reset_keep=0.1
    )
    train(neutral)
    assert weights(neutral) == weights(plain)
    assert entries(neutral) == entries(plain)


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_changes_the_training(place, tmp_path, plain, expert):
    found = spec(place, tmp_path / expert, expert=expert)
    log = train(found)
    assert weights(found) != weights(plain)
    assert all(entry["expert_loss"] > 0 and entry["expert_weight"] > 0 for entry in log)
    # The weight of the loss falls with the learning rate, but to nothing only after the last step.
    assert log[-1]["expert_loss"] < log[0]["expert_loss"]


def test_a_table_can_be_the_expert(place, tmp_path):
    one = spec(place, tmp_path / "one")
    ids = one.order[:8]
    file = tmp_path / "expert.parquet"
    rows = {"sample_id": ids, "item": [3] * 8, "probability": [0.5] * 8}
    write_table(file, pa.table(rows))
    shown = spec(
        place, tmp_path / "table", expert="table", expert_table=str(file), lr_schedule="constant"
    )
    log = train(shown)
    # Step 0 trains these samples, the others have no row.
    assert log[0]["expert_loss"] > 0
    assert [entry["expert_loss"] for entry in log[1:]] == [0] * 5


def test_supervision_can_imitate_too(place, tmp_path):
    found = spec(place, tmp_path / "s", loss="supervised", expert="cooccurrence")
    for entry in train(found):
        assert entry["loss"] == pytest.approx(entry["item_loss"] + entry["expert_loss"])


@pytest.mark.parametrize(
    "settings", [{}, {"item_candidates": "catalogue", "item_refresh_steps": 1}]
)
def test_micro_batches_change_an_expert_only_by_rounding(place, tmp_path, settings):
    found = []
    for size in (8, 2):
        more = {"steps": 2, "prompts_per_micro_batch": size, "expert": "cooccurrence"}
        found.append(train(spec(place, tmp_path / str(size), **more, **settings)))
    for one, two in zip(*found, strict=True):
        for name in ("expert_loss", "expert_weight", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-3)


def test_two_workers_change_an_expert_only_by_rounding(place, tmp_path):
    settings = {"loss": "supervised", "expert": "shortcut", "steps": 3}
    one = spec(place, tmp_path / "one", **settings)
    train(one)
    two = spec(place, tmp_path / "two", **settings)
    train_by_two(two, tmp_path / "meeting")
    for a, b in zip(entries(one), entries(two), strict=True):
        for name in ("expert_loss", "expert_weight", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_replays_train_on_the_same_rollouts(place, tmp_path):
    found = spec(place, tmp_path / "r", replays=2, imitate_best=0.5)
    log = train(found)
    plain = spec(place, tmp_path / "p")
    first = train(plain)[0]
    assert [entry["rollouts"] > 0 for entry in log] == [True, False] * 3
    assert [entry["tokens"] > 0 for entry in log] == [True, False] * 3
    # Rollouts are new before pass 0, and older than the weights in pass 1.
    ratios = [entry["abs_log_ratio"] for entry in log]
    assert max(ratios[::2]) < 1e-4 < min(ratios[1::2])
    assert [entry.get("best_loss", 0) > 0 for entry in log] == [False, True] * 3
    # The first pass is the first step of a training without replays.
    for name in ("loss", "reward", "grad_norm", "forward_tokens"):
        assert log[0][name] == first[name]
    assert log[1]["forward_tokens"] < log[0]["forward_tokens"]
    assert log[0]["prompt_tokens"] == log[1]["prompt_tokens"] != log[2]["prompt_tokens"]


def test_epochs_count_what_is_rolled_out():
    training = TrainingConfig(prompts_per_step=8, prompts_per_micro_batch=8, replays=2, epochs=1)
    assert training.steps_on(20) == 6
    assert training.model_copy(update={"replays": 1}).steps_on(20) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"replays": 2, "reset_steps": 2, "imitate_best": 0.3},
        {"expert": "cooccurrence"},
        {"replays": 2, "expert": "shortcut", "reset_steps": 4},
    ],
)
def test_an_interrupted_training_ends_with_the_same_bytes(place, tmp_path, settings):
    whole = spec(place, tmp_path / "whole", **settings)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)
    assert entries(cut) == entries(whole)


@pytest.mark.parametrize("stage", [0, 1, 2])  # 3 replaces functions of torch in this process
def test_a_reset_keeps_its_share_of_b(place, tmp_path, stage):
    """With a learning rate of almost 0 after the reset, the weights stay those of the reset."""
    still = {"steps": 1, "loss": "supervised", "lr_warmup_steps": 0, "lr_schedule": "constant"}
    before = spec(place, tmp_path / "before", stage=stage, **still)
    train(before)
    reset = spec(
        place,
        tmp_path / "reset",
        stage=stage,
        **still | {"steps": 2},
        reset_steps=1,
        reset_keep=0.0,
    )
    log = train(reset)
    plain = spec(place, tmp_path / "plain", stage=stage, **still | {"steps": 2})
    assert train(plain)[1]["grad_norm"] != log[1]["grad_norm"]
    first, second = (load(weights(one)) for one in (before, reset))
    rate = SMALL["learning_rate"]
    for name, value in second.items():
        if "lora_B" in name:
            # Nothing is kept, so B is one step of a new Adam from 0: at most the learning rate.
            assert value.abs().max() == pytest.approx(rate, rel=1e-2)
        else:  # A is not reset: at most one further step of the learning rate away
            assert (value - first[name]).abs().max() <= rate * 1.01


def test_a_reset_arrives_under_zero_3(place, tmp_path):
    """Two workers, in processes of their own. Without the reset, B would be two steps from 0."""
    still = {"steps": 2, "loss": "supervised", "lr_warmup_steps": 0, "lr_schedule": "constant"}
    found = spec(place, tmp_path / "z", stage=3, **still, reset_steps=1, reset_keep=0.0)
    train_by_two(found, tmp_path / "meeting")
    largest = max(v.abs().max() for name, v in load(weights(found)).items() if "lora_B" in name)
    assert largest == pytest.approx(SMALL["learning_rate"], rel=1e-2)


def test_a_reset_mixes_with_another_start(place, tmp_path):
    settings = {"loss": "supervised", "lr_warmup_steps": 0, "lr_schedule": "constant"}
    start = spec(place, tmp_path / "start", **settings, steps=2)
    train(start)
    adapter = str(Path(start.folder) / "adapter")
    reset = spec(
        place,
        tmp_path / "reset",
        start=adapter,
        **settings,
        steps=3,
        reset_steps=2,
        reset_keep=0.0,
    )
    train(reset)
    before, after = load(weights(start)), load(weights(reset))
    for name, value in after.items():
        assert (value - before[name]).abs().max() <= SMALL["learning_rate"] * 1.01
        assert not torch.equal(value, before[name])


def test_two_workers_replay_as_one(place, tmp_path):
    settings = {"replays": 2, "reset_steps": 2, "imitate_best": 0.3, "expert": "cooccurrence"}
    alone = spec(place, tmp_path / "one", **settings)
    train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    one, two = entries(alone), entries(both)
    assert [e["rollouts"] for e in one] == [e["rollouts"] for e in two]
    # Rollouts after the first update may differ by rounding, so only the first batch is compared.
    for a, b in zip(one[:2], two[:2], strict=True):
        for name in ("loss", "expert_loss", "grad_norm", "reward"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


@pytest.mark.parametrize("reference", ["writer", "start"])
def test_dpo_takes_pairs_of_rollouts(place, tmp_path, reference):
    settings = {"loss": "dpo", "replays": 2, "preference_reference": reference}
    log = train(spec(place, tmp_path / "dpo", rollouts_per_prompt=4, **settings))
    assert all({"token_loss", "clipped_tokens"}.isdisjoint(entry) for entry in log)
    # In the first pass the policy is the writer, and in the first step it is the start too.
    assert log[0]["preference_margin"] == pytest.approx(0, abs=1e-5)
    live = 1 - log[0]["dead_groups"]
    assert log[0]["preference_loss"] == pytest.approx(live * math.log(2), abs=1e-4)
    assert log[1]["preference_margin"] > 0  # after a step on the same pairs
    assert (abs(log[2]["preference_margin"]) < 1e-5) == (reference == "writer")


def test_dpo_has_the_same_bytes_after_a_restart(place, tmp_path):
    settings = {"loss": "dpo", "replays": 2, "preference_reference": "start"}
    whole = spec(place, tmp_path / "whole", **settings)
    train(whole)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    assert weights(cut) == weights(whole)


def test_micro_batches_change_dpo_only_by_rounding(place, tmp_path):
    found = []
    for size in (8, 2):
        more = {"steps": 2, "prompts_per_micro_batch": size, "loss": "dpo", "replays": 2}
        found.append(train(spec(place, tmp_path / str(size), **more)))
    for one, two in zip(*found, strict=True):
        for name in ("preference_loss", "preference_margin", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-5)
