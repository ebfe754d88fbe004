"""The token losses: values and gradients by hand, and where they meet GRPO."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from minirec.config.token_loss import PER_GROUP
from minirec.config.training import TrainingConfig
from minirec.rl import grpo
from minirec.rl.start import k3
from minirec.rl.token_losses import (
    TOKEN_LOSSES,
    TokenLoss,
    Tokens,
    checked,
    entropy_terms,
    group_advantages,
    relative_advantages,
)

CLIP = grpo.Clip(0.2, 0.28, 2.0)
LENGTHS = [1, 3]


def tokens(ratios, advantages=(1.0, -1.0), lengths=LENGTHS, **changes):
    """Two rollouts of a prompt, whose tokens the writer drew with probability 1/2 each."""
    rollout = torch.repeat_interleave(torch.tensor(lengths))
    behaviour = torch.full((len(ratios),), math.log(0.5))
    settings = {"rollouts": 2, "per_prompt": 2, "clip": CLIP, "longest": 4} | changes
    return Tokens(
        logprobs=(behaviour + torch.tensor(ratios).log()).requires_grad_(),
        behaviour=behaviour,
        advantage=torch.tensor(advantages)[rollout],
        rollout=rollout,
        **settings,
    )


def solved(name, given):
    """Loss and gradient by the log-probabilities."""
    found = TOKEN_LOSSES[name](given)
    (gradient,) = torch.autograd.grad(found.total, given.logprobs)
    return float(found.total.detach()), gradient.tolist(), found


def test_gspo_by_hand():
    # s = 1.1 and (1.2 * 0.9 * 1)^(1/3) = 1.08^(1/3); the loss is -(1.1 - s) / 2.
    s = 1.08 ** (1 / 3)
    value, gradient, found = solved("gspo", tokens([1.1, 1.2, 0.9, 1.0]))
    assert value == pytest.approx(-(1.1 - s) / 2, abs=1e-6)
    assert gradient == pytest.approx([-0.55, *[s / 6] * 3], abs=1e-6)
    assert found.unit == "groups" and not found.clipped.any()


def test_gspo_clips_a_whole_rollout():
    # s of the second rollout is 0.5 < 0.8, and its advantage is negative: no gradient, value 0.8.
    value, gradient, found = solved("gspo", tokens([1.0, 0.25, 0.5, 1.0]))
    assert value == pytest.approx(-(1 - 0.8) / 2, abs=1e-6)
    assert gradient == pytest.approx([-0.5, 0, 0, 0])
    assert found.clipped.tolist() == [False, True, True, True]


def test_gspo_of_rollouts_of_one_token_is_grpo():
    for ratios in ([1.1, 0.9], [1.5, 0.7], [0.5, 3.0]):
        one = tokens(ratios, lengths=[1, 1])
        value, gradient, _ = solved("gspo", one)
        other, wanted, _ = solved("grpo", one)
        assert value == pytest.approx(other / 2)
        assert gradient == pytest.approx([x / 2 for x in wanted])


def test_gspo_takes_a_rollout_without_written_tokens():
    value, gradient, _ = solved("gspo", tokens([1.1], lengths=[1, 0]))
    assert value == pytest.approx(-0.55) and gradient == pytest.approx([-0.55])


def test_cispo_by_hand():
    # -A min(ratio, 2) is the gradient; the ratio 3 is truncated and keeps a gradient.
    value, gradient, found = solved("cispo", tokens([3.0, 3.0, 0.5, 1.0]))
    assert gradient == pytest.approx([-2, 2, 0.5, 1], abs=1e-6)
    logs = [math.log(x / 2) for x in (3.0, 3.0, 0.5, 1.0)]
    assert value == pytest.approx(-2 * logs[0] + 2 * logs[1] + 0.5 * logs[2] + logs[3], abs=1e-6)
    assert found.unit == "tokens"
    assert found.clipped.tolist() == [True, True, False, False]


def test_cispo_has_the_gradient_of_grpo_inside_the_clip():
    inside = tokens([1.1, 1.2, 0.9, 1.0])
    assert solved("cispo", inside)[1] == pytest.approx(solved("grpo", inside)[1], abs=1e-6)
    outside = tokens([1.5, 1.2, 0.5, 1.0])
    assert solved("grpo", outside)[1][0] == 0 != solved("cispo", outside)[1][0]


def test_dr_grpo_by_hand():
    # -(1.1 - 1.2 - 0.9 - 1) / (2 rollouts * 4 tokens).
    value, gradient, found = solved("dr_grpo", tokens([1.1, 1.2, 0.9, 1.0]))
    assert value == pytest.approx(0.25, abs=1e-6)
    assert gradient == pytest.approx([-1.1 / 8, 1.2 / 8, 0.9 / 8, 1 / 8], abs=1e-6)
    assert found.unit == "groups"


def test_dr_grpo_of_full_rollouts_is_grpo():
    full = tokens([1.1, 1.2, 0.9, 1.0], lengths=[2, 2], longest=2)
    # GRPO is divided by the 4 tokens of the step, Dr. GRPO by its 1 group.
    assert solved("dr_grpo", full)[0] == pytest.approx(solved("grpo", full)[0] / 4)
    with pytest.raises(ValueError, match="divides by the longest rollout"):
        TOKEN_LOSSES["dr_grpo"](tokens([1.0], lengths=[1, 0], longest=None))


def test_maxrl_is_the_loss_of_grpo():
    given = tokens([1.5, 1.2, 0.5, 1.0])
    assert solved("maxrl", given)[:2] == solved("grpo", given)[:2]


def test_the_advantages_of_the_losses():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 1.0]])
    found = {
        loss: group_advantages(rewards, TrainingConfig(loss=loss)).tolist() for loss in TOKEN_LOSSES
    }
    assert found["maxrl"] == [[3, -1, -1, -1], [0, 0, -1, 1]]
    assert found["dr_grpo"] == [[0.75, -0.25, -0.25, -0.25], [0, 0, -0.5, 0.5]]
    root = math.sqrt(3)  # the deviation is sqrt(3) / 4
    assert found["grpo"][0] == pytest.approx([root, *[-1 / root] * 3])
    assert found["grpo"] == found["gspo"] == found["cispo"]


def test_maxrl_meets_grpo_where_mean_and_deviation_are_equal():
    half = torch.tensor([[1.0, 0.0]])
    assert torch.equal(relative_advantages(half, floor=1e-3), grpo.advantages(half))
    dead = torch.zeros(1, 3)
    assert torch.equal(relative_advantages(dead, floor=1e-3), dead)
    with pytest.raises(ValueError, match=r"a reward is -0\.5, but the loss maxrl"):
        relative_advantages(torch.tensor([[-0.5, 1.0]]), floor=1e-3)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_maxrl_follows_the_truncated_log_likelihood(size):
    """By enumeration of all groups: the expected gradient is sum_{k<G} (1 - p)^(k-1) dp."""
    p = 0.3
    expected = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=size):
        chance = math.prod(p if x else 1 - p for x in outcome)
        advantage = relative_advantages(torch.tensor([outcome]), floor=1e-3)[0].tolist()
        scores = [1 / p if x else -1 / (1 - p) for x in outcome]  # d log p(outcome) / dp
        expected += chance * sum(a * s for a, s in zip(advantage, scores, strict=True)) / size
    assert expected == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, size)), abs=1e-5)


def test_the_units_are_those_that_the_settings_know():
    found = {name for name in TOKEN_LOSSES if solved(name, tokens([1.0] * 4))[2].unit == "groups"}
    assert found == set(PER_GROUP)


def expected_gradient(terms):
    """The mean gradient by logits of terms of log p, over tokens that p draws; p, logits."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, 0)
    drawn = logprobs.detach().exp()
    (gradient,) = torch.autograd.grad((drawn * terms(logprobs)).sum(), logits)
    return gradient, logits


def test_the_entropy_terms_have_the_gradient_of_minus_the_entropy():
    found, logits = expected_gradient(entropy_terms)
    logprobs = torch.log_softmax(logits, 0)
    (wanted,) = torch.autograd.grad((logprobs.exp() * logprobs).sum(), logits)
    assert torch.allclose(found, wanted)


def test_k3_has_the_gradient_of_the_kl_of_the_start_to_the_policy():
    start = torch.log_softmax(torch.tensor([0.1, 0.2, -0.3, 0.5], dtype=torch.float64), 0)
    found, logits = expected_gradient(lambda logprobs: k3(logprobs, start))
    kl = (start.exp() * (start - torch.log_softmax(logits, 0))).sum()
    (wanted,) = torch.autograd.grad(kl, logits)
    assert torch.allclose(found, wanted)


def test_what_a_function_of_the_user_returns_is_checked():
    given = tokens([1.0] * 4)
    good = TokenLoss(given.logprobs.sum(), given.advantage > 0)
    assert checked(good, given, name="own:loss") is good
    with pytest.raises(ValueError, match="training.loss own:loss returned Tensor, not a TokenLoss"):
        checked(given.logprobs.sum(), given, name="own:loss")
    with pytest.raises(ValueError, match=r"of the shapes \(4,\) and \(4,\); expected \(\) and"):
        checked(TokenLoss(given.logprobs, given.advantage > 0), given, name="own:loss")
