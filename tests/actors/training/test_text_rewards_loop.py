"""Rewards that read texts, and the contrastive loss, in the loop of a training worker."""

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
from minirec.errors import ConfigError

pytestmark = pytest.mark.slow
GRPO = TrainingConfig(rollouts_per_prompt=4, steps=3, checkpoint_steps=1, **SMALL)
LIKELIHOOD = RewardConfig(name="reference_likelihood", reference_weight=0.5)
JUDGE = RewardConfig(judge=f"{__name__}:shortest_first")
OPTIONS = {
    "contrastive": {"loss": "contrastive"},
    "base": {"reward": LIKELIHOOD},
    "likelihood alone": {"reward": LIKELIHOOD.model_copy(update={"reference_weight": 1.0})},
    "judge": {"reward": JUDGE},
    "live tokens": {"reward": LIKELIHOOD, "live_tokens": True},
    "judge with live tokens": {"reward": JUDGE, "live_tokens": True},
}
FIGURES = ("reward", "item_loss", "loss", "grad_norm", "dead_groups")
OF_TEXTS = ("text_reward", "ndcg", "copied_text")
ALL = {"loss": "contrastive", "replays": 2, "imitate_best": 0.1, "kl_weight": 0.1}
ALL |= {"steps": 4, "checkpoint_steps": 2, "contrastive_weight": 100.0}


def shortest_first(prompt, texts):
    """A judge: short texts first, and of equal length the first in the alphabet."""
    return sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))


def undecided(prompt, texts):
    """A judge that returns no order."""
    return [0] * len(texts)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with one_process():
        place = tmp_path_factory.mktemp("place")
        spec_of(place, GRPO)
        yield place


def spec(place, folder, reward=None, **settings):
    training = TrainingConfig.model_validate(GRPO.model_dump() | settings)
    reward = reward or RewardConfig()
    steps = training.steps
    whole = spec_of(place, training, folder=str(folder), steps=steps, longest=6, reward=reward)
    return replace(whole, pool=own_engine(whole.model_path))


@pytest.fixture(scope="module")
def plain(place, tmp_path_factory):
    own = spec(place, tmp_path_factory.mktemp("plain"))
    return train(own), weights(own)


def alike(log, other, names):
    for name in names:
        own, found = ([entry.get(name) for entry in entries] for entries in (log, other))
        assert found == pytest.approx(own, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize("name", OPTIONS)
def test_each_trains_and_does_not_depend_on_micro_batches(place, plain, tmp_path, name):
    changes = OPTIONS[name]
    one = spec(place, tmp_path / "one", **changes)
    log = train(one)
    assert weights(one) != plain[1]
    many = train(spec(place, tmp_path / "many", prompts_per_micro_batch=1, **changes))
    figures = [name for name in (*FIGURES, *OF_TEXTS) if name in log[0]]
    assert ("text_reward" in figures) == ("reward" in changes)
    alike(log, many, figures)


def test_settings_without_effect_leave_the_bytes(place, plain, tmp_path):
    unused = RewardConfig(reference_weight=0.9, reference="/no/such", judge_calls=3)
    settings = {"contrastive_weight": 3.0, "contrastive_margin": 0.5}
    own = spec(place, tmp_path / "unused", reward=unused, **settings)
    log = train(own)
    assert weights(own) == plain[1]
    assert [sorted(entry) for entry in log] == [sorted(entry) for entry in plain[0]]


def test_the_base_model_as_a_folder_is_the_base(place, tmp_path):
    own = spec(place, tmp_path / "base", reward=LIKELIHOOD)
    base = train(own)
    named = LIKELIHOOD.model_copy(update={"reference": own.model_path})
    folder = train(spec(place, tmp_path / "folder", reward=named))
    alike(base, folder, (*FIGURES, *OF_TEXTS))
    assert [e["forward_tokens"] for e in base] == [e["forward_tokens"] for e in folder]


def test_the_reference_counts_as_a_cost_and_the_mix_is_right(place, plain, tmp_path):
    log = train(spec(place, tmp_path / "base", reward=LIKELIHOOD))
    only = RewardConfig(name="ndcg")
    ranks = train(spec(place, tmp_path / "ndcg", reward=only))
    # The rollouts of the first step are the same.
    assert log[0]["ndcg"] == pytest.approx(ranks[0]["reward"], abs=1e-5)
    mean = 0.5 * log[0]["ndcg"] + 0.5 * log[0]["text_reward"]
    assert log[0]["reward"] == pytest.approx(mean, abs=1e-5)
    assert log[0]["forward_tokens"] > ranks[0]["forward_tokens"]
    assert log[0]["dead_groups"] < ranks[0]["dead_groups"] or not ranks[0]["dead_groups"]


def test_a_judge_replaces_the_rewards(place, plain, tmp_path):
    log = train(spec(place, tmp_path / "judge", reward=JUDGE))
    assert [entry["reward"] for entry in log] == pytest.approx(
        [entry["text_reward"] for entry in log]
    )
    # Four different texts earn 1, 3/4, 1/2 and 1/4; equal ones lower the mean.
    assert 0.25 <= log[0]["reward"] <= 0.625
    assert log[0]["forward_tokens"] == plain[0][0]["forward_tokens"]
    several = JUDGE.model_copy(update={"judge_calls": 3})
    own = spec(place, tmp_path / "several", reward=several)
    train(own)
    assert weights(own) == (tmp_path / "judge/adapter/adapter_model.safetensors").read_bytes()


def test_a_judge_that_is_wrong_is_one_sentence(place, tmp_path):
    wrong = RewardConfig(judge=f"{__name__}:undecided")
    with pytest.raises(ConfigError, match=r":undecided returned \[0, 0.*\] is no order of"):
        train(spec(place, tmp_path / "wrong", reward=wrong))


def test_a_contrastive_loss_replaces_that_of_tokens(place, tmp_path):
    log = train(spec(place, tmp_path / "c", **ALL))
    assert all({"token_loss", "clipped_tokens"}.isdisjoint(entry) for entry in log)
    assert all(entry["contrastive_loss"] > 0 for entry in log)
    assert all(0 <= entry["misordered"] <= 1 for entry in log)
    # A step on the same rollouts brings them nearer to the order of the rewards.
    assert log[1]["contrastive_loss"] < log[0]["contrastive_loss"]


@pytest.mark.parametrize("reward", [LIKELIHOOD, JUDGE])
def test_an_interrupted_training_ends_with_the_same_weights(place, tmp_path, reward):
    whole = spec(place, tmp_path / "whole", reward=reward, **ALL)
    train(whole)
    cut = replace(whole, folder=str(tmp_path / "cut"))
    begun = Worker(cut)
    for step in range(2):
        begun.step(step)
    begun.checkpoint(2)
    train(cut)
    assert weights(cut) == weights(whole)


@pytest.mark.parametrize("reward", [LIKELIHOOD, JUDGE])
def test_two_workers_train_as_one(place, tmp_path, reward):
    settings = {"loss": "contrastive", "kl_weight": 0.1, "lr_warmup_steps": 50}
    alone = spec(place, tmp_path / "one", reward=reward, **settings)
    log = train(alone)
    both = replace(alone, folder=str(tmp_path / "two"))
    train_by_two(both, tmp_path / "meeting")
    shared = read_log(Path(both.folder) / "log.jsonl")
    alike(log, shared, (*FIGURES, *OF_TEXTS, "contrastive_loss", "misordered"))
