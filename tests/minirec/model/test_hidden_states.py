"""Passes over many groups in blocks."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_model import build_model
from transformers import AutoModelForCausalLM

from minirec.model.passes import hidden_states
from minirec.model.recommender import Policy
from minirec.rl.group import Group


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = build_model(tmp_path_factory.mktemp("model") / "model")
    return Policy(AutoModelForCausalLM.from_pretrained(folder).eval(), pad_id=0)


def group(number: int) -> Group:
    """Group `number` has 1 to 4 completions after a prompt of 20 to 120 tokens."""
    prompt = [1 + (number * 7 + i) % 250 for i in range(20 + number * 37 % 101)]
    completions = [[5 + j] * (2 + (number + j) % 6) for j in range(1 + number % 4)]
    return Group(prompt, completions, [1] * len(completions), [], 0)


def test_the_states_are_those_of_each_sequence_alone(policy):
    """120 groups need several blocks, and blocks mix packed and single groups."""
    groups = [group(number) for number in range(120)]
    passes = []
    hook = policy.lm.model.register_forward_hook(lambda *_: passes.append(1))
    found = hidden_states(policy, groups)
    hook.remove()
    assert 1 < len(passes) < 20
    with torch.no_grad():
        alone = [policy([sequence])[0][0] for one in groups for sequence in one.sequences]
    assert torch.allclose(found, torch.stack(alone), atol=1e-4)
    assert not found.requires_grad


def test_states_are_the_first_result_of_forward(policy):
    groups = [group(3), group(7), group(11)]
    assert policy.packs(groups)
    with torch.no_grad():
        assert torch.equal(policy(groups=groups, logprobs=False)[0], policy(groups=groups)[0])
