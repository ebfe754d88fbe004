"""Advantages of chunks: by hand, telescoping, and unbiased for rollouts of one length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.training import TrainingConfig
from minirec.rl import grpo
from minirec.rl.candidates import Candidates
from minirec.rl.chunks import chunk_bounds, inner_values, places, prefixes, token_chunks
from minirec.rl.credit import chunk_advantages, credit_advantages
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective

ANSWER = [8, 9]
# The engine stopped the first rollout, which wrote the marker itself, at the marker. The second
# has no marker of its own, the third wrote nothing else.
GROUP = Group([5], [[1, 2, 3, 8, 9], [1, 2, 3, 4, 8, 9], [8, 9]], [5, 4, 2], [], 0)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [(0.0, [0.3, -0.2, 0.4]), (1.0, [0.5, 0.2, 0.4]), (0.5, [0.3, 0.0, 0.4])],
)
def test_by_hand(decay, expected):
    found = chunk_advantages(torch.tensor([0.4, 0.7, 0.5]), torch.tensor(0.9), decay=decay)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_one_chunk_compares_with_the_other_rollouts():
    rewards = torch.tensor([[1.0, 0.5, 0.5, 0.0]])
    none = torch.empty(1, 4, 0)
    plain = TrainingConfig(credit="prefill", scale_advantage=False)
    found = credit_advantages(none, rewards, plain)[..., 0]
    assert found[0].tolist() == pytest.approx([2 / 3, 0, 0, -2 / 3], abs=1e-6)
    # G / (G - 1) of the advantage of GRPO, scaled or not.
    assert torch.allclose(found, 4 / 3 * grpo.advantages(rewards, scale=False))
    scaled = credit_advantages(none, rewards, TrainingConfig(credit="prefill"))[..., 0]
    assert torch.allclose(scaled, 4 / 3 * grpo.advantages(rewards))


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6), st.floats(-1, 1, width=32))
def test_the_advantages_of_a_rollout_telescope(values, reward):
    values, reward = torch.tensor(values), torch.tensor(reward)
    own = chunk_advantages(values, reward, decay=0.0)
    assert float(own.sum()) == pytest.approx(float(reward - values[0]), abs=1e-5)
    assert chunk_advantages(values, reward, decay=1.0).tolist() == pytest.approx(
        (reward - values).tolist(), abs=1e-5
    )


def test_at_one_length_a_wrong_value_of_a_prefix_does_not_bias_the_gradient():
    """Two coins with rewards of their sequences; by enumeration, at lambda 1."""
    logits = torch.tensor([[0.4, -0.2], [1.0, 0.3], [-0.5, 0.2]], requires_grad=True)
    logp = torch.log_softmax(logits, 1)
    reward = [[0.1, 0.9], [0.5, 0.2]]
    wrong = [7.0, -3.0]  # the value after the first coin
    biased, plain = torch.tensor(0.0), torch.tensor(0.0)
    for first in (0, 1):
        for second in (0, 1):
            own = [logp[0, first], logp[1 + first, second]]
            chance = (own[0] + own[1]).detach().exp()
            values = torch.tensor([0.0, wrong[first]])
            advantage = chunk_advantages(values, torch.tensor(reward[first][second]), decay=1.0)
            biased = biased + chance * (advantage[0] * own[0] + advantage[1] * own[1])
            plain = plain + chance * reward[first][second] * (own[0] + own[1])
    found, wanted = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (biased, plain))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_equal_rewards_are_not_divided_by_the_floor():
    inner = torch.tensor([[[0.0], [1.0]]])
    found = credit_advantages(inner, torch.ones(1, 2), TrainingConfig(credit="prefill"))
    # Rewards 1, 1 and values 0, 1 have the deviation sqrt(3)/4; the other rollout has 1 too.
    assert found.flatten().tolist() == pytest.approx([0, 4 / 3**0.5, 0, 0], abs=1e-6)


def test_chunks_of_text_are_cut_at_tokens_and_keep_the_marker_whole():
    assert chunk_bounds(7, chunks=3) == [2, 4] and chunk_bounds(0, chunks=2) == [0]
    (found,) = prefixes([GROUP], number=1, chunks=2, answer=ANSWER)
    assert found.completions == [[1, 8, 9], [1, 2, 8, 9], [8, 9]]
    assert found.written == [0, 0, 0]
    chunks = token_chunks([GROUP], chunks=2, answer=2)
    assert chunks == [0, 1, 1, 1, 1] + [0, 0, 1, 1] + [1, 1]


def test_equal_texts_of_a_prompt_are_one_place():
    alike = Group([5], [[1, 2, 8, 9], [1, 3, 8, 9], [4, 8, 9]], [2, 2, 3], [], 0)
    found = places([alike, alike], chunks=2, answer=2)
    assert found == {(0, (1,)): (0, 1), (0, ()): (2, 1), (1, (1,)): (0, 1), (1, ()): (2, 1)}
    values = {place: float(number) for number, place in enumerate(found)}
    first, second = inner_values([alike, alike], values, chunks=2, answer=2)
    assert first.inner == [[0], [0], [1]] and second.inner == [[2], [2], [3]]


def test_vine_takes_the_values_of_the_groups():
    """Rewards 1 and 0, inner values .25 and .5, values at the start 0 and 1; lambda is 0."""
    items = torch.eye(3)
    group = Group([5], [[1, 2, 8], [3, 4, 8]], [2, 2], [], 0, [[-1.0] * 2, [-1.0] * 2])
    tokens = torch.full((6,), -1.0).requires_grad_()
    training = TrainingConfig(credit="vine", scale_advantage=False)
    found = losses(
        lambda *, groups: (items[[0, 1]], tokens),
        [replace(group, inner=[[0.25], [0.5]])],
        candidates=Candidates(torch.tensor([0]), items[:1], items),
        objective=Objective(training, temperature=1.0, cutoff=1, reward=ndcg, answer=[8]),
    )
    found.parts[0].total.backward()
    assert tokens.grad.tolist() == pytest.approx([-0.25, -0.75, 0, 0.5, 0.5, 0])


def test_null_takes_the_lambda_of_the_credit():
    assert TrainingConfig(credit="vine").credit_decay == 0
    assert TrainingConfig(credit="prefill").credit_decay == 1
    assert TrainingConfig(credit="vine", credit_lambda=0.5).credit_decay == 0.5


@pytest.mark.parametrize(
    ("following", "expected"), [([], [-1, -1, 0, 1, 0, 0]), ([1], [0, 0, 0, 0, 0, 0])]
)
def test_the_token_loss_takes_the_advantages_of_chunks(following, expected):
    """The forced answer finds the target only after the text of the first rollout.

    With item 1 as relevant as the target, all rewards and all inner values are 1.
    """
    items = torch.eye(3)
    text, written_logprobs = [[1, 2, 8], [3, 4, 8]], [[-1.0] * 2, [-1.0] * 2]
    group = Group([5], text, [2, 2], [], 0, written_logprobs, following=following)
    tokens = torch.full((6,), -1.0).requires_grad_()

    def policy(*, groups, logprobs=True):
        (asked,) = groups
        if asked.completions == [[1, 8], [3, 8]]:  # both cut in the middle
            assert not logprobs
            return items[[1, 1]], None
        assert asked is group
        return items[[0, 1]], tokens

    training = TrainingConfig(credit="prefill", scale_advantage=False)
    found = losses(
        policy,
        [group],
        candidates=Candidates(torch.tensor([0]), items[:1], items),
        objective=Objective(training, temperature=1.0, cutoff=1, reward=ndcg, answer=[8]),
    )
    # Without following items: rewards 1 and 0, inner values 0 and 0, values at the start 0 and 1.
    found.parts[0].total.backward()
    assert tokens.grad.tolist() == pytest.approx(expected)
