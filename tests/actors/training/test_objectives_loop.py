"""The losses, weights, comparisons and credits in the loop of a training worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.training.loop import Worker
from jobs.training_log import read_log
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig

pytestmark = pytest.mark.slow
GRPO = TrainingConfig(rollouts_per_prompt=4, steps=3, checkpoint_steps=1, **SMALL)
NOISY = RewardConfig(feedback="comparison", comparison_noise=0.1)
OBJECTIVES = {
    "gspo": {"loss": "gspo"},
    "cispo": {"loss": "cispo"},
    "dr_grpo": {"loss": "dr_grpo"},
    "maxrl": {"loss": "maxrl"},
    "kl": {"kl_weight": 0.5},
    "entropy": {"entropy_weight": 0.1},
    "hard": {"weighting": "hard", "weighting_temperature": 0.1},
    "middle": {"weighting": "middle", "weighting_temperature": 0.2},
    "comparison": {"reward": RewardConfig(feedback="comparison")},
    "noise": {"reward": NOISY},
    "prefill": {"credit": "prefill", "credit_chunks": 3},
}
ALL = {"loss": "gspo", "kl_weight": 0.5, "entropy_weight": 0.1, **OBJECTIVES["middle"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with one_process():
        place = tmp_path_factory.mktemp("place")
        spec_of(place, GRPO)
        yield place


def spec(place, folder, reward=None, **settings):
    training = GRPO.model_copy(update=settings)
    reward = reward or RewardConfig()
    whole = spec_of(place, training, folder=str(folder), steps=3, longest=6, reward=reward)
    return replace(whole, pool=own_engine(whole.model_path))


@pytest.fixture(scope="module")
def plain(place, tmp_path_factory):
    own = spec(place, tmp_path_factory.mktemp("plain"))
    return train(own), weights(own)


FIGURES = ("reward", "token_loss", "item_loss", "loss", "grad_norm", "clipped_tokens")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_trains_and_does_not_depend_on_micro_batches(place, plain, tmp_path, name):
    changes = OBJECTIVES[name]
    one = spec(place, tmp_path / "one", **changes)
    log = train(one)
    assert weights(one) != plain[1]
    many = train(spec(place, tmp_path / "many", prompts_per_micro_batch=1, **changes))
    for figure in FIGURES:
        own, other = ([entry[figure] for entry in found] for found in (log, many))
        assert other == pytest.approx(own, rel=2e-3, abs=1e-5), figure


def test_the_first_step_has_no_kl_and_no_weights(place, plain, tmp_path):
    log = train(spec(place, tmp_path / "kl", kl_weight=0.5))
    assert [entry["kl_loss"] > 0 for entry in log] == [False, True, True]
    assert log[0]["grad_norm"] == plain[0][0]["grad_norm"]
    assert log[0]["forward_tokens"] > plain[0][0]["forward_tokens"]
    log = train(spec(place, tmp_path / "hard", **OBJECTIVES["hard"]))
    assert log[0]["group_weight"] == 1 != log[1]["group_weight"]
    assert log[0]["grad_norm"] == plain[0][0]["grad_norm"]


def test_a_large_temperature_leaves_the_bytes(place, plain, tmp_path):
    own = spec(place, tmp_path / "alike", weighting="hard", weighting_temperature=1e9)
    train(own)
    assert weights(own) == plain[1]


@pytest.mark.parametrize("changes", [{**ALL, "reward": NOISY}, OBJECTIVES["prefill"]])
def test_an_interrupted_training_ends_with_the_same_weights(place, tmp_path, changes):
    whole = spec(place, tmp_path / "whole", **changes)
    train(whole)
    cut = replace(whole, folder=str(tmp_path / "cut"))
    begun = Worker(cut)
    for step in range(2):
        begun.step(step)
    begun.checkpoint(2)
    train(cut)
    assert weights(cut) == weights(whole)


def test_two_workers_train_as_one(place, tmp_path):
    alone = spec(place, tmp_path / "one", reward=NOISY, **ALL)
    log = train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    shared = read_log(Path(both.folder) / "log.jsonl")
    for figure in (*FIGURES, "kl_loss", "entropy_loss", "weighting", "group_weight"):
        own, other = ([entry[figure] for entry in found] for found in (log, shared))
        assert other == pytest.approx(own, rel=2e-3, abs=1e-5), figure


def test_a_training_from_an_adapter_keeps_near_that_adapter(place, tmp_path):
    first = spec(place, tmp_path / "first")
    train(first)
    start = str(Path(first.folder) / "adapter")
    plain, kept = (
        replace(spec(place, tmp_path / f"kl-{weight}", kl_weight=weight), start=start)
        for weight in (0.0, 0.5)
    )
    without, log = train(plain), train(kept)
    assert log[0]["kl_loss"] == 0 < log[2]["kl_loss"]
    assert log[0]["grad_norm"] == without[0]["grad_norm"]
