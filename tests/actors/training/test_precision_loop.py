"""GRPO in one process: bfloat16, micro-batches by tokens, checkpointing, ZeRO stages."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loop import MODEL, SMALL, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two
from safetensors.torch import load

from jobs.training_log import read_log
from minirec.config.training import TrainingConfig
from minirec.model.recommender import Policy

pytestmark = pytest.mark.slow
ONE = TrainingConfig(steps=1, checkpoint_steps=1, **SMALL)


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    spec_of(place, ONE)
    return place


def trained(place, dtype="float32", stage=0, **settings):
    """The log entry of the only step, and the weights after it."""
    spec = spec_of(
        place,
        ONE.model_copy(update=settings),
        steps=1,
        model=MODEL.model_copy(update={"dtype": dtype}),
        folder=str(place / "policy"),
        zero_stage=stage,
    )
    spec = replace(spec, pool=own_engine(spec.model_path, dtype=dtype))
    (entry,) = train(spec)
    found = load(weights(spec))
    shutil.rmtree(Path(spec.folder))
    return entry, found


SAME = ("reward", "token_loss", "item_loss", "grad_norm")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts_per_micro_batch": 1},
        {"prompts_per_micro_batch": 8, "tokens_per_micro_batch": 150},
        {"gradient_checkpointing": True},
        {"stage": 1},
        {"stage": 2, "prompts_per_micro_batch": 2},
        {"stage": 2, "kl_steps": 1, "gradient_checkpointing": True},
        {"live_tokens": True, "tokens_per_micro_batch": 100},
    ],
)
def test_passes_and_sharding_change_a_step_only_by_rounding(place, changes):
    wanted, _ = trained(place)
    found, _ = trained(place, **changes)
    for name in SAME:
        assert found[name] == pytest.approx(wanted[name], rel=1e-4), name


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bfloat16_keeps_lora_weights_and_gradients_in_float32(place, stage):
    whole, after = trained(place, "bfloat16", stage, prompts_per_micro_batch=8)
    parts, _ = trained(place, "bfloat16", stage, prompts_per_micro_batch=1)
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=2e-2)
    assert whole["abs_log_ratio"] < 0.05
    exact, _ = trained(place)
    assert whole["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.2)  # other rollouts


@pytest.mark.parametrize("tokens", [60, 150])
def test_no_supervised_pass_reads_more_tokens_than_the_limit(place, monkeypatch, tokens):
    """Prompts have 20 to 50 tokens; short ones share a row."""
    seen = []
    whole = Policy.forward

    def noted(self, sequences=(), *, groups=None, **options):
        if torch.is_grad_enabled() and groups is not None:
            lengths = [group.lengths for group in groups]
            seen.append((len(groups), self.sharing.padded(lengths)))
        return whole(self, sequences, groups=groups, **options)

    monkeypatch.setattr(Policy, "forward", noted)
    training = ONE.model_copy(update={"loss": "supervised", "tokens_per_micro_batch": tokens})
    spec = spec_of(place, training, steps=1, folder=str(place / "supervised"))
    train(spec)
    shutil.rmtree(Path(spec.folder))
    assert sum(count for count, _ in seen) == ONE.prompts_per_step
    assert all(size <= tokens or count == 1 for count, size in seen)
    assert len(seen) > 1


def test_zero_3_in_bfloat16_takes_the_steps_of_zero_0(place, tmp_path):
    """Two workers, in processes of their own: ZeRO 3 replaces functions of torch."""
    norms = {}
    for stage in (0, 3):
        spec = spec_of(
            place,
            ONE.model_copy(update={"loss": "supervised", "prompts_per_micro_batch": 1}),
            steps=2,
            model=MODEL.model_copy(update={"dtype": "bfloat16"}),
            folder=str(tmp_path / f"stage-{stage}"),
            zero_stage=stage,
        )
        train_by_two(spec, tmp_path / f"meeting-{stage}")
        log = read_log(Path(spec.folder) / "log.jsonl")
        norms[stage] = [entry["grad_norm"] for entry in log]
    assert len(norms[3]) == 2
    assert norms[3] == pytest.approx(norms[0], rel=5e-2)
