"""What may change only rounding: packing, micro-batches, chunks of the vocabulary, checkpointing,
and bfloat16."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minirec.config.training import TrainingConfig
from minirec.model import logprobs
from minirec.model.loading import load_lm
from minirec.model.micro_batches import micro_batches, padded
from minirec.model.recommender import Policy
from minirec.model.sharing import Sharing, packed_rows, packed_width
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import reward_function
from minirec.rl.rollouts import Objective

OBJECTIVE = Objective(
    training=TrainingConfig(),
    temperature=0.5,
    cutoff=1000,
    reward=reward_function("ndcg_softmax", softmax_weight=0.05),
)
WORDS = 90


def policy_of(family="Qwen2", dtype=torch.float32, **more):
    """A tiny policy with LoRA weights that are not zero; the same in each dtype, up to rounding."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(4)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=WORDS,
        initializer_range=0.1,
        **more,
    )
    lm = getattr(transformers, f"{family}ForCausalLM")._from_config(config)
    lm = lm.bfloat16().to(dtype)  # the same values in both dtypes
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    lm = get_peft_model(lm, lora)
    for name, weight in lm.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.1)
    return Policy(lm, pad_id=0, temperature=0.9)


def groups_of(*sizes, rollouts=3, seed=1):
    """Groups with prompts of these sizes, and completions of 1 to 4 tokens."""
    draw = torch.Generator().manual_seed(seed)

    def some(count):
        return torch.randint(1, WORDS, (count,), generator=draw).tolist()

    groups = []
    for number, size in enumerate(sizes):
        completions = [some(1 + (number + i) % 4) for i in range(rollouts)]
        old = [[-4.4] * len(c) for c in completions]
        excluded, target = [number % 5 + 5], number % 5
        written = [len(c) for c in completions]
        groups.append(Group(some(size), completions, written, excluded, target, old))
    return groups


GIVEN = replace(OBJECTIVE, reward=lambda ranking, _: torch.arange(len(ranking.rank)) % 3 / 2)
"""Rewards that rounding cannot change, as it can change ranks."""


def gradient(policy, groups, parts, objective=OBJECTIVE):
    """Gradient of the LoRA weights, as one vector, added up over parts of the groups."""
    draw = torch.Generator().manual_seed(0)
    table = nn.functional.normalize(torch.randn(12, 32, generator=draw), dim=-1)
    ids = torch.arange(5)
    candidates = Candidates(ids, table[ids], table)
    policy.zero_grad()
    for part in parts:
        some = [groups[i] for i in part]
        found = losses(policy, some, candidates=candidates, objective=objective)
        found.mean({"tokens": 30, "groups": len(groups)}).backward()
    lora = [weight for weight in policy.parameters() if weight.requires_grad]
    assert all(weight.grad.dtype == torch.float32 for weight in lora)
    return torch.cat([weight.grad.flatten() for weight in lora])


def apart(found, wanted):
    """Relative difference in the 2-norm."""
    return float((found - wanted).norm() / wanted.norm())


SIZES = (20, 3, 9, 4, 12, 5, 21, 6)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Llama", "Gemma2"])
def test_packing_and_micro_batches_change_no_gradient(family):
    policy, groups = policy_of(family), groups_of(*SIZES)
    wanted = gradient(policy, groups, [[i] for i in range(len(groups))])
    for tokens in (None, 40, 80, 10_000):
        parts = micro_batches(
            [g.lengths for g in groups], prompts=8, tokens=tokens, sharing=policy.sharing
        )
        assert sorted(i for part in parts for i in part) == list(range(len(groups)))
        assert apart(gradient(policy, groups, parts), wanted) < 1e-5
    assert (policy.sharing is None) == (family == "Gemma2")


def test_groups_that_share_a_row_do_not_see_each_other():
    policy, groups = policy_of(), groups_of(*SIZES)
    assert len(packed_rows([g.lengths for g in groups])) < len(groups)
    assert policy.packs(groups)
    together = policy(groups=groups)
    one_by_one = [policy(groups=[group]) for group in groups]
    for part in (0, 1):
        separate = torch.cat([found[part] for found in one_by_one])
        assert torch.allclose(together[part], separate, atol=1e-5)
    alone = policy(groups=groups, alone=True)
    assert torch.allclose(alone[0], together[0], atol=1e-5)


def test_rows_fill_the_room_beside_the_longest_group():
    groups = [(10, [2]), (3, [2, 2]), (4, [1]), (12, [])]  # 12, 7, 5 and 12 tokens
    assert packed_rows(groups) == [[0], [3], [1, 2]]
    assert packed_rows(groups, alone=True) == [[0], [1], [2], [3]]


LENGTHS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=2, max_size=2)),
    min_size=1,
    max_size=12,
)


@given(LENGTHS, st.integers(1, 5), st.none() | st.integers(1, 200), st.integers(1, 12))
def test_each_group_is_in_one_micro_batch_within_the_limits(groups, prompts, tokens, at_least):
    sharing = Sharing(pairs_per_token=100)
    found = micro_batches(
        groups,
        prompts=prompts,
        tokens=tokens,
        sharing=sharing,
        at_least=min(at_least, len(groups)),
    )
    assert sorted(i for part in found for i in part) == list(range(len(groups)))
    assert len(found) >= min(at_least, len(groups))
    for part in found:
        assert 1 <= len(part) <= prompts
        these = [groups[i] for i in part]
        assert tokens is None or len(part) == 1 or padded(these, sharing) <= tokens
    rows = packed_rows(groups)
    assert sorted(i for row in rows for i in row) == list(range(len(groups)))
    for row in rows:
        assert sum(groups[i][0] + sum(groups[i][1]) for i in row) <= packed_width(groups)


def test_chunks_of_the_vocabulary_change_nothing_and_no_graph_keeps_their_logits(monkeypatch):
    policy, groups = policy_of("Gemma2", final_logit_softcapping=5.0), groups_of(*SIZES)
    whole = gradient(policy, groups, [range(len(groups))])
    monkeypatch.setattr(logprobs, "LOGITS_BYTES", 4 * WORDS * 7)  # 7 tokens at once
    assert apart(gradient(policy, groups, [range(len(groups))]), whole) < 1e-6
    largest = []

    def note(tensor):
        if tensor.shape[-1] == WORDS and tensor.dim() == 2:
            largest.append(tensor.shape[0])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        policy(groups=groups)[1].sum()
    assert max(largest, default=0) <= 32  # the head itself: hidden size x words


def test_checkpointing_keeps_fewer_activations_and_changes_no_gradient():
    def kept(policy):
        sizes = []
        pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            policy(groups=groups)[0].sum()
        return sum(sizes)

    policy, groups = policy_of(), groups_of(*SIZES)
    parts = [range(4), range(4, 8)]
    off, before = gradient(policy, groups, parts), kept(policy)
    policy.checkpoint_activations()
    assert apart(gradient(policy, groups, parts), off) < 1e-6
    assert kept(policy) < before / 3
    policy.checkpoint_activations(False)
    assert kept(policy) > before / 2


def test_bfloat16_adds_up_gradients_in_float32():
    """The error is that of one pass, for any number of micro-batches."""
    groups = groups_of(*SIZES, *SIZES)
    exact = gradient(policy_of(), groups, [range(16)], GIVEN)
    low = policy_of(dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    errors = []
    for size in (16, 4, 2, 1):
        parts = [range(i, i + size) for i in range(0, 16, size)]
        errors.append(apart(gradient(low, groups, parts, GIVEN), exact))
    assert 1e-4 < min(errors) < max(errors) < 2e-2
    assert errors[-1] < 1.2 * errors[0]


@pytest.mark.parametrize(("cap", "kind"), [(20.0, "eager"), (None, "sdpa")])
def test_a_model_with_capped_attention_scores_is_loaded_with_an_attention_that_caps(
    tmp_path, cap, kind
):
    from minirec.config.model import ModelConfig

    policy = policy_of("Gemma2", attn_logit_softcapping=cap)
    policy.causal.save_pretrained(tmp_path)
    found = load_lm(str(tmp_path), ModelConfig())
    assert found.config._attn_implementation == kind
