"""The item table of a training: how often it is encoded, by whom it is read, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights

from actors.training.loop import Worker
from actors.training.validation import METRIC
from minirec.config.training import TrainingConfig
from minirec.corpus.table import load_catalogue
from minirec.model.recommender import Encoder

pytestmark = pytest.mark.slow

ONE_EACH = TrainingConfig(
    steps=4, rollouts_per_prompt=2, checkpoint_steps=2, item_refresh_steps=1, **SMALL
)
"""A table at each step."""


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def spec(place, name, **changes):
    made = spec_of(place, ONE_EACH.model_copy(update=changes), folder=str(place / name), steps=4)
    return replace(made, pool=own_engine(made.model_path))


def catalogue(spec) -> int:
    """Tokens of all items."""
    known = load_catalogue(Path(spec.corpus))
    encoder = Encoder.load(spec.model_path, spec.model, category=known.category)
    return sum(map(len, encoder.items(known)))


@pytest.fixture(scope="module")
def plain(place):
    one = spec(place, "plain")
    return one, train(one)


def test_a_validation_shares_the_table_of_the_next_step(place, plain):
    one = spec(place, "validated", validation_steps=1, validation_samples=8)
    log = train(one)
    assert weights(one) == weights(plain[0])
    assert all(METRIC in entry for entry in log)
    assert [e["forward_tokens"] for e in log] == [e["forward_tokens"] for e in plain[1]]
    # With a table every two steps, the validations before the steps 1 and 3 pay for their own.
    two = spec(place, "two", validation_steps=1, validation_samples=8, item_refresh_steps=2)
    costs = [entry["validation_forward_tokens"] for entry in log]
    other = [entry["validation_forward_tokens"] for entry in train(two)]
    written = [entry["validation_tokens"] for entry in log]
    # The prompts are the same, so without the table a validation costs them and what is written.
    assert costs[3] - costs[0] >= catalogue(one) + written[3] - written[0] - 8 * 2
    assert other[0] == costs[0] + catalogue(one)


def test_auto_is_the_number_that_it_stands_for(place, plain):
    auto = spec(place, "auto", item_refresh_steps="auto", checkpoint_steps=4)
    every = Worker(auto).tokens.refresh_steps
    assert every == 4
    train(auto)
    fixed = spec(place, "fixed", item_refresh_steps=every, checkpoint_steps=4)
    train(fixed)
    assert weights(auto) == weights(fixed)
    assert (every == 1) == (weights(auto) == weights(plain[0]))
