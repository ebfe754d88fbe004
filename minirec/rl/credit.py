"""Advantages of the parts of a rollout (after VinePPO, arXiv 2410.01679).

VinePPO estimates the value of the text written so far by the mean reward of further completions
from there: ``credit: vine``, whose values `actors.training.vine` draws. With ``credit: prefill``
the answer is forced there instead, and the reward of its ranking is the value: a forward pass, and
no rollout. Such a value need not be that of the policy. With ``credit_lambda`` 1 a wrong value does
not bias the gradient, as long as the place of the cut depends only on what came before: the value
is then a baseline. Parts of equal length are cut where the length of the whole rollout says, so a
small bias remains with rollouts of different lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.config.training import TrainingConfig
from minirec.rl.chunks import prefixes, token_chunks
from minirec.rl.group import Group


@dataclass(frozen=True)
class Prefixes:
    """The places between the C chunks of the P * G rollouts of a micro-batch.

    chunk: (W,) int64, the chunk 0..C-1 of each written token.
    hidden: (P * G * (C - 1), d) float32 without gradient, at an answer that is forced after each
        chunk but the last; None with vine.
    values: (P, G, C - 1) float32, `Group.inner`; None with prefill.
    """

    chunk: Tensor
    hidden: Tensor | None = None
    values: Tensor | None = None


@torch.no_grad()
def read_prefixes(
    policy: Callable[..., tuple[Tensor, Tensor | None]],
    groups: Sequence[Group],
    *,
    training: TrainingConfig,
    answer: Sequence[int],
) -> Prefixes:
    """The places between the chunks; prefill reads them by C - 1 passes of the policy."""
    chunks = training.credit_chunks
    chunk = torch.tensor(token_chunks(groups, chunks=chunks, answer=len(answer)))
    if training.credit == "vine":
        return Prefixes(chunk, values=torch.tensor([group.inner for group in groups]))
    hidden = [
        policy(
            groups=prefixes(groups, number=number, chunks=chunks, answer=answer), logprobs=False
        )[0]
        for number in range(1, chunks)
    ]
    states = torch.stack(hidden, 1).flatten(0, 1)
    return Prefixes(chunk.to(states.device), hidden=states)


def chunk_advantages(values: Tensor, rewards: Tensor, *, decay: float) -> Tensor:
    """Advantages (..., C) of chunks: generalised advantage estimates without discount.

    ``A_c = sum_l lambda^l delta_{c+l}`` with ``delta_c = V_{c+1} - V_c`` and V_C = r (arXiv
    1506.02438). lambda = 1 gives r - V_c. With lambda = 0 the advantages of a rollout add up to
    r - V_0.

    Args:
        values: (..., C) of the state before each chunk.
        rewards: (...) of the rollouts.
        decay: lambda.
    """
    delta = torch.cat([values, rewards[..., None]], -1).diff(dim=-1)
    found, after = [], torch.zeros_like(rewards)
    for number in reversed(range(delta.shape[-1])):
        after = delta[..., number] + decay * after
        found.append(after)
    return torch.stack(found[::-1], -1)


def credit_advantages(inner: Tensor, rewards: Tensor, training: TrainingConfig) -> Tensor:
    """Advantages (P, G, C) of the chunks of rollouts.

    The value before the first chunk is the mean reward of the other rollouts of the prompt. With
    `scale_advantage` all are divided by the standard deviation of the rewards and inner values of
    the group, at least `advantage_floor`. That of the rewards alone would be 0 in a group whose
    rewards are equal, but whose inner values are not.

    Args:
        inner: (P, G, C - 1) values of the places between the chunks.
        rewards: (P, G) of the rollouts.
    """
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    values = torch.cat([others[..., None], inner], -1)
    found = chunk_advantages(values, rewards, decay=training.credit_decay)
    if not training.scales:
        return found
    seen = torch.cat([rewards[..., None], inner], -1).flatten(1)
    deviation = seen.std(1, correction=0).clamp_min(training.advantage_floor)
    return found / deviation[:, None, None]
