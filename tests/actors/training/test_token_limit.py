"""A training that ends by its cost, with the loop of a training worker in this process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.loop import SMALL, one_process, spec_of, train, weights

from actors.training.loop import Worker
from actors.training.update import set_learning_rate
from actors.training.validation import METRIC
from jobs.fingerprint import training_settings
from minirec.config.training import TrainingConfig

pytestmark = pytest.mark.slow

WHOLE = TrainingConfig(loss="supervised", steps=8, checkpoint_steps=2, validation_steps=3, **SMALL)


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def log(place):
    """Of a training without a limit, of 8 steps."""
    return train(spec_of(place, WHOLE, folder=str(place / "whole")))


def limited(place, log, name, **changes):
    """A training that has spent its limit after the fifth step."""
    limit = sum(entry["forward_tokens"] for entry in log[:5])
    training = WHOLE.model_copy(update={"token_limit": limit, **changes})
    return spec_of(place, training, folder=str(place / name))


def test_no_step_begins_at_the_limit_and_the_last_is_validated(place, log):
    found = train(limited(place, log, "limited"))
    assert [entry["step"] for entry in found] == [0, 1, 2, 3, 4]
    assert [METRIC in entry for entry in found] == [False, False, True, False, True]
    # The steps cost the same; validations are counted apart.
    assert [e["forward_tokens"] for e in found] == [e["forward_tokens"] for e in log[:5]]
    # 64 prompts of validation at most, each a sequence, and the catalogue.
    assert found[2]["validation_forward_tokens"] == found[4]["validation_forward_tokens"] > 0


def test_one_token_more_allows_one_step_more(place, log):
    spec = limited(place, log, "more")
    more = spec.training.model_copy(update={"token_limit": spec.training.token_limit + 1})
    assert len(train(replace(spec, training=more))) == 6


def test_the_cost_does_not_depend_on_micro_batches(place, log):
    spec = limited(place, log, "micro", prompts_per_micro_batch=2)
    found = train(spec)
    assert [e["forward_tokens"] for e in found] == [e["forward_tokens"] for e in log[:5]]


def test_the_rate_falls_with_the_cost(place, log):
    """A limit of half the steps' cost brings the rate down as far as all the steps would."""
    worker = Worker(limited(place, log, "rate", lr_warmup_steps=0))
    peak = worker.spec.training.learning_rate
    rates = []
    for step in range(5):
        set_learning_rate(worker.engine, worker.spec, step, spent=worker.share_spent())
        rates.append(worker.engine.optimizer.param_groups[0]["lr"] / peak)
        worker.log.entries.append(log[step])
    spent = [sum(entry["forward_tokens"] for entry in log[:step]) for step in range(5)]
    limit = worker.spec.training.token_limit
    assert rates == pytest.approx([1 - tokens / limit for tokens in spent])
    assert rates[4] < 1 - 4 / 8


def test_an_interrupted_training_ends_at_the_same_step_with_the_same_weights(place, log):
    whole, stopped = (limited(place, log, name) for name in ("undisturbed", "stopped"))
    train(whole)
    begun = Worker(stopped)
    for step in range(2):
        begun.step(step)
    begun.checkpoint(2)
    train(stopped)
    assert weights(stopped) == weights(whole)


def test_a_training_without_a_limit_keeps_its_fingerprint():
    assert "token_limit" not in training_settings(WHOLE)
    limited = WHOLE.model_copy(update={"token_limit": 5})
    assert training_settings(limited)["token_limit"] == 5
