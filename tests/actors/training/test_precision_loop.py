"""GRPO in one process: bfloat16, micro-batches by tokens, checkpointing, ZeRO stages."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loop import MODEL, SMALL, one_process, own_engine, spec_of, train, weights
from safetensors.torch import load

from minirec.config.training import TrainingConfig

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
