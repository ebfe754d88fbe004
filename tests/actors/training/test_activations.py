"""When gradient checkpointing is on."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.loop import one_process

from actors.training import activations
from actors.training.activations import Activations, free_memory

QWEN = {
    "model_type": "qwen2",
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 50,
}


class Policy:
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self):
        self.calls = []

    def checkpoint_activations(self, on):
        self.calls.append(on)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    with one_process():
        yield str(tmp_path)


def made(folder, setting="auto"):
    policy = Policy()
    return policy, Activations(policy, setting, model_path=folder, workers=1)


def test_auto_keeps_activations_as_long_as_they_fit(folder, monkeypatch):
    """Of 3 layers with 4 x 16 + 2 x 4 + 2 x 8 + 6 x 8 = 136 numbers each: 1,632 bytes a token."""
    monkeypatch.setattr(activations, "free_memory", lambda device, workers: 2 * 16_320)
    policy, decided = made(folder)
    assert [decided.make_fit(tokens, row=5) for tokens in (10, 11, 12, 10)] == [
        False,
        True,
        True,
        False,
    ]
    assert policy.calls == [False, True, False]


@pytest.mark.parametrize("setting", [True, False])
def test_a_setting_holds_for_any_size(folder, setting):
    policy, decided = made(folder, setting)
    assert decided.make_fit(10**9, row=9) is setting and decided.make_fit(1, row=1) is setting
    assert policy.calls == [setting]


def test_auto_leaves_it_off_for_a_model_of_unknown_size(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN | {"model_type": "mamba"}))
    assert made(folder)[1].make_fit(10**9, row=9) is False


def test_workers_share_the_memory_of_the_machine():
    device = torch.device("cpu")
    assert free_memory(device, workers=1) / 4 > 0.8 * free_memory(device, workers=4) > 0
