"""The KL of a policy to the start of its training, and the check of engine against trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights

from actors.training.log import mismatch
from minirec.config.training import TrainingConfig
from minirec.rl.start import k3

GRPO = TrainingConfig(rollouts_per_prompt=2, steps=4, checkpoint_steps=2, **SMALL)


def test_the_mean_of_k3_is_the_kl():
    p, q = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]
    terms = k3(torch.tensor(p).log(), torch.tensor(q).log())
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(torch.tensor(p) @ terms) == pytest.approx(kl, abs=1e-6)
    assert (terms >= 0).all() and float(terms[2]) == 0


@pytest.mark.parametrize(
    ("ratio", "limit", "ends"),
    [(0.2, 0.1, True), (0.1, 0.1, False), (0.2, None, False)],
)
def test_a_mismatch_is_said_with_its_step(ratio, limit, ends):
    entries = [{"step": 0, "abs_log_ratio": 9.0}, {"step": 1, "abs_log_ratio": ratio}]
    why = mismatch(entries, limit)
    assert bool(why) == ends
    if why:
        assert "at step 1" in why and "is 0.2, above training.max_log_ratio 0.1" in why
    assert mismatch([], limit) is None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with one_process():
        place = tmp_path_factory.mktemp("place")
        spec_of(place, GRPO)
        yield place


def spec(place, folder, **settings):
    training = GRPO.model_copy(update=settings)
    whole = spec_of(place, training, folder=str(folder), steps=4)
    return replace(whole, pool=own_engine(whole.model_path))


@pytest.mark.slow
def test_the_kl_rises_from_zero_and_changes_nothing(place, tmp_path):
    plain, measured = (spec(place, tmp_path / f"{steps}", kl_steps=steps) for steps in (None, 2))
    without, log = train(plain), train(measured)
    assert [("kl_start" in entry) for entry in log] == [True, False, True, False]
    assert log[0]["kl_start"] == 0 < log[2]["kl_start"]
    assert weights(measured) == weights(plain)
    assert log[0]["forward_tokens"] > without[0]["forward_tokens"]
    assert log[1]["forward_tokens"] == without[1]["forward_tokens"]


@pytest.mark.slow
def test_a_training_from_an_adapter_compares_with_that_adapter(place, tmp_path):
    first = spec(place, tmp_path / "first")
    train(first)
    start = str(Path(first.folder) / "adapter")
    plain, measured = (
        replace(spec(place, tmp_path / f"from-{steps}", kl_steps=steps), start=start)
        for steps in (None, 1)
    )
    train(plain)
    log = train(measured)
    assert log[0]["kl_start"] == 0 < log[3]["kl_start"]
    assert weights(measured) == weights(plain)
    names = {path.name for path in (Path(measured.folder) / "adapter").iterdir()}
    assert names == {path.name for path in (Path(plain.folder) / "adapter").iterdir()}


@pytest.mark.slow
def test_micro_batches_change_only_rounding(place, tmp_path):
    logs = [
        train(spec(place, tmp_path / str(size), kl_steps=1, prompts_per_micro_batch=size))
        for size in (8, 2)
    ]
    one, many = ([entry["kl_start"] for entry in log] for log in logs)
    assert one == pytest.approx(many, rel=1e-3, abs=1e-9)


@pytest.mark.slow
def test_a_mismatch_ends_the_training_before_its_next_step(place, tmp_path):
    log = train(spec(place, tmp_path / "ends", max_log_ratio=1e-12))
    assert len(log) == 1 and log[0]["abs_log_ratio"] > 1e-12
    assert not (tmp_path / "ends" / "adapter").exists()
    assert len(train(spec(place, tmp_path / "goes-on", max_log_ratio=1.0))) == 4
