"""Exercise: a token loss of your own.

A token loss is a function of the written `Tokens` of a micro-batch. It returns a `TokenLoss`: the
sum over the micro-batch, with gradient, and which tokens it has clipped. Here it is named by the
setting as ``package.module:function``. To ship it with MiniRec instead, move it to
`minirec.rl.token_losses` and add the line ``"asymmetric": asymmetric`` to `TOKEN_LOSSES` there: it
then has a name of its own.
"""

from __future__ import annotations

import math

import pytest
import torch

from minirec.config.reading import load
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective, counted
from minirec.rl.token_losses import TokenLoss, Tokens


def asymmetric(tokens: Tokens) -> TokenLoss:
    """Policy gradient that believes good rollouts fully and bad ones by their ratio, at most 1.

    Tapered off-policy REINFORCE (after arXiv 2503.14286): a token of a bad rollout that the policy
    hardly writes any more is not pushed down further.
    """
    ratio = tokens.log_ratio.detach().exp()
    weight = torch.where(tokens.advantage > 0, torch.ones_like(ratio), ratio.clamp(max=1))
    total = -(weight * tokens.advantage * tokens.logprobs).sum()
    return TokenLoss(total, clipped=ratio > 1)


def test_the_setting_names_the_loss():
    training = load(None, [f"training.loss={__name__}:asymmetric"]).training
    # Two rollouts of a prompt, one token each. The first ranks the target, item 0, first. The
    # policy halves the probability of the second.
    group = Group(
        prompt=[5],
        completions=[[6], [7]],
        written=[1, 1],
        excluded=[],
        target=0,
        rollout_logprobs=[[math.log(0.4)], [math.log(0.6)]],
    )
    logprobs = torch.tensor([0.4, 0.3]).log().requires_grad_()
    items = torch.eye(3)

    def policy(*, groups):
        return items[:2], logprobs  # the hidden states point at items 0 and 1

    found = losses(
        policy,
        [group],
        candidates=Candidates(torch.tensor([0]), items[:1], items),
        objective=Objective(training, temperature=1.0, cutoff=3, reward=ndcg),
    )
    # The advantages of two rollouts are 1 and -1, and the step divides by its 2 tokens.
    found.parts[0].total.div(counted([group])["tokens"]).backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.25])
    assert found.sums["clipped_tokens", "tokens"] == 0
