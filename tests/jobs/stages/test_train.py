"""Workers, micro-batches and ZeRO stages change the speed of training, not its course."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch
from helpers.small import finish
from safetensors.torch import load_file

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

ENGINE = "vllm" if importlib.util.find_spec("vllm") else "transformers"

CURVE = ("reward", "token_loss", "item_loss")


def proxy_log(base, run_dir, *overrides):
    """Log of a proxy that starts from the corpus and the model of `base`."""
    shutil.copytree(base, run_dir)
    finish(run_dir, "proxy", "--overwrite", *overrides, engine=ENGINE)
    return [json.loads(line) for line in (run_dir / "proxy" / "log.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)
def test_two_workers_and_small_micro_batches_follow_the_same_curve(undisturbed, tmp_path):
    short = (
        "proxy.training.steps=4",
        "proxy.training.checkpoint_steps=4",
        "proxy.training.item_candidates=corrected",
    )
    one = proxy_log(undisturbed, tmp_path / "one", *short)
    two = proxy_log(
        undisturbed,
        tmp_path / "two",
        *short,
        "proxy.training.prompts_per_micro_batch=4",
        "resources.training_workers=2",
        "resources.zero_stage=2",
    )
    assert len(one) == len(two) == 4
    # The first step differs by rounding alone. The norm is that of the whole gradient before
    # clipping, so a wrong scale between workers, micro-batches or the item encoder shows.
    first = (*CURVE, "grad_norm")
    assert [two[0][k] for k in first] == pytest.approx([one[0][k] for k in first], rel=1e-4)
    # Later, Adam turns rounding of tiny gradients into steps of full size, and a rank may flip.
    for a, b in zip(one, two, strict=True):
        assert [b[k] for k in CURVE] == pytest.approx([a[k] for k in CURVE], rel=0.1, abs=5e-3)
    # The policy moved, so equal curves are not two standing still.
    assert one[-1]["item_loss"] != pytest.approx(one[0]["item_loss"], rel=1e-3)
    # Token log-probabilities of the trainer are those that the engine sampled with.
    assert max(entry["abs_log_ratio"] for entry in one) < 1e-4


def test_training_goes_on_with_the_proxy(undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    still = ("training.steps=2", "training.learning_rate=1e-9", "training.staleness=1")
    finish(run_dir, "train", "--overwrite", "training.start=proxy", *still)
    proxy, trained = (
        load_file(run_dir / folder / "adapter" / "adapter_model.safetensors")
        for folder in ("proxy", "policy")
    )
    assert any(proxy[name].abs().max() > 1e-3 for name in proxy if "lora_B" in name)
    assert all(torch.allclose(trained[name], proxy[name], atol=1e-6) for name in proxy)
    # The engine drew with it too, also the first step, which has no older adapter.
    log = (run_dir / "policy" / "log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["abs_log_ratio"] for line in log) < 1e-4
