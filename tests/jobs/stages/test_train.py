"""Workers, micro-batches and ZeRO stages change the speed of training, not its results."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers.small import finish
from safetensors.torch import load_file

from jobs.training_log import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CURVE = ("reward", "token_loss", "item_loss")


@pytest.mark.timeout(600)
def test_two_workers_and_small_micro_batches_follow_the_same_curve(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "two")
    shared = ["resources.training_workers=2", "resources.zero_stage=2"]
    finish(run_dir, "proxy", "--overwrite", *shared, "proxy.training.prompts_per_micro_batch=4")
    one, two = (read_log(run / "proxy" / "log.jsonl")[:4] for run in (undisturbed, run_dir))
    # The first step differs only by rounding. The norm of the whole gradient before clipping
    # reveals a wrong scale between workers, micro-batches or the item encoder.
    first = (*CURVE, "grad_norm")
    assert [two[0][k] for k in first] == pytest.approx([one[0][k] for k in first], rel=1e-4)
    # Later, Adam turns rounding errors of tiny gradients into full steps, and a rank may flip.
    for a, b in zip(one, two, strict=True):
        assert [b[k] for k in CURVE] == pytest.approx([a[k] for k in CURVE], rel=0.1, abs=5e-3)
    # The policy has changed, so the curves are not equal by standing still.
    assert one[-1]["item_loss"] != pytest.approx(one[0]["item_loss"], rel=1e-3)
    # The trainer's token log-probabilities equal those of the engine.
    assert max(entry["abs_log_ratio"] for entry in one) < 1e-4


def test_training_starts_from_the_proxy(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    still = ("training.steps=2", "training.learning_rate=1e-9", "training.staleness=1")
    finish(run_dir, "train", "--overwrite", "training.start=proxy", *still)
    proxy, trained = (
        load_file(run_dir / folder / "adapter" / "adapter_model.safetensors")
        for folder in ("proxy", "policy")
    )
    assert any(proxy[name].abs().max() > 1e-3 for name in proxy if "lora_B" in name)
    assert all(torch.allclose(trained[name], proxy[name], atol=1e-6) for name in proxy)
    # The engine used the proxy too, also for the first step, which has no older adapter.
    log = read_log(run_dir / "policy" / "log.jsonl")
    assert max(entry["abs_log_ratio"] for entry in log) < 1e-4
