"""What a rollout tells a frozen LM of the target, against a plain forward of transformers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_model import build_adapter, build_model
from transformers import AutoTokenizer

from minirec.config.model import ModelConfig
from minirec.errors import ConfigError
from minirec.model.recommender import Policy, load_policy
from minirec.model.reference import load_reference
from minirec.rl.continued import continued, copied_share
from minirec.rl.group import Group
from minirec.rl.likelihood import Likelihood, gains, mixed

ANSWER = [1]
WORDS = [[20, 21, 22], [30], [40, 41]]
GROUPS = [
    Group([5, 6, 7], [[8, 9, 1], [10, 1], [1]], [3, 2, 0], [], target=0),
    Group([50, 51], [[60, 61, 62, 63, 1], [64, 1], [65, 66, 1]], [5, 2, 3], [], target=1),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapted(model, tmp_path_factory):
    adapter = build_adapter(model, tmp_path_factory.mktemp("adapter"), 1).path
    return policy_of(model, adapter=adapter, merge=False)


def policy_of(model, **more) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(model)
    return load_policy(model, ModelConfig(), tokenizer, rollout_temperature=0.7, **more)


def plain(lm, prompt, completion, words):
    """Mean log-probability of the words, one sequence at a time and at the temperature 1."""
    ids = torch.tensor([[*prompt, *completion, *words]])
    logprobs = lm(input_ids=ids).logits[0].log_softmax(1)
    first = len(prompt) + len(completion)
    return sum(logprobs[first + i - 1, word] for i, word in enumerate(words)) / len(words)


def by_hand(lm):
    rows = []
    for group in GROUPS:
        words = WORDS[group.target]
        before = plain(lm, group.prompt, ANSWER, words)
        after = [plain(lm, group.prompt, one, words) for one in group.completions]
        rows.append(torch.stack(after) - before)
    return torch.stack(rows).detach()


def test_gains_by_hand():
    """Two completions and the bare marker; the last two tokens of each are the words."""
    group = SimpleNamespace(completions=[[0, 0, 0], [0, 0], [0, 0, 0, 0]])
    logprobs = torch.tensor([-9.0, -1, -2, -3, -4, -9, -9, -5, -6])
    found = gains(logprobs, [group], [2])
    assert found.tolist() == [[-1.5 + 5.5, -3.5 + 5.5]]


def test_the_words_follow_each_completion_and_the_bare_marker():
    read = continued(GROUPS, words=WORDS, answer=ANSWER)
    assert read[1].completions == [
        [60, 61, 62, 63, 1, 30],
        [64, 1, 30],
        [65, 66, 1, 30],
        [1, 30],
    ]
    assert read[1].prompt == GROUPS[1].prompt


def test_the_base_reads_without_the_adapter(model, adapted):
    base = policy_of(model)
    found = Likelihood(WORDS, ANSWER)(adapted, GROUPS)
    assert torch.allclose(found, by_hand(base.lm), atol=1e-5)
    assert torch.allclose(Likelihood(WORDS, ANSWER)(base, GROUPS), found, atol=1e-5)
    with_adapter = Likelihood(WORDS, ANSWER, reference=adapted)(base, GROUPS)
    assert torch.allclose(with_adapter, by_hand(adapted.lm), atol=1e-5)
    assert not torch.allclose(with_adapter, found, atol=1e-2)


def test_the_adapter_is_on_again(adapted):
    before = adapted(groups=GROUPS)[1]
    Likelihood(WORDS, ANSWER)(adapted, GROUPS)
    assert torch.equal(adapted(groups=GROUPS)[1], before)


def test_an_empty_rollout_tells_nothing(adapted):
    found = Likelihood(WORDS, ANSWER)(adapted, GROUPS)
    assert found[0, 2] == pytest.approx(0, abs=1e-5)
    assert found.abs().max() > 0.1


def test_the_rewards_have_no_gradient_and_do_not_depend_on_the_batch(adapted):
    reward = Likelihood(WORDS, ANSWER)
    both = reward(adapted, GROUPS)
    assert not both.requires_grad
    alone = torch.cat([reward(adapted, [group]) for group in GROUPS])
    assert torch.allclose(alone, both, atol=1e-5)


def test_mixed_by_hand():
    ranked, told = torch.tensor([0.5, 1.0]), torch.tensor([-1.0, 2.0])
    assert mixed(ranked, told, weight=0.2).tolist() == pytest.approx([0.2, 1.2])
    assert mixed(ranked, told, weight=1.0).tolist() == [-1, 2]


def test_copied_text_by_hand():
    """Rollout 0 copies one of its two tokens, rollout 1 its only one, rollout 2 has none."""
    group = Group([5, 6, 7], [[6, 9, 1], [7, 1], [1]], [3, 1, 0], [], target=0)
    assert copied_share([group, GROUPS[1]], answer=1) == pytest.approx((0.5 + 1 + 0) / 3)


def test_another_tokenizer_is_refused(model, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    with pytest.raises(ConfigError, match=r"reward\.reference .* has another tokenizer"):
        load_reference(model, ModelConfig(), other)
    own = AutoTokenizer.from_pretrained(model)
    assert load_reference(model, ModelConfig(), own).causal.config.vocab_size == 300
    with pytest.raises(ConfigError, match="is no folder with a model"):
        load_reference(str(tmp_path), ModelConfig(), own)
