"""The policy that a training started from: its log-probabilities, and the distance to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from minirec.rl.group import Group, written_tokens

START = "start"
"""Name of the frozen adapter that training starts from, if there is one."""
TRAINED = "default"  # peft's name for the adapter in training


def k3(policy: Tensor, start: Tensor) -> Tensor:
    """Terms of the k3 estimate of KL(policy || start) from log-probabilities of the same shape.

    With r = log start - log policy, a term is exp(r) - 1 - r >= 0. Its mean over tokens that the
    policy drew is the KL (http://joschu.net/blog/kl-approx.html).
    """
    r = start - policy
    return r.exp() - 1 - r


@torch.no_grad()
def start_logprobs(policy: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities (W,) float32, at the start, of the tokens that engines wrote; one pass.

    Args:
        policy: the policy, or a DeepSpeed engine around it. If it has no adapter `START`, the start
            is the model without adapter.
    """
    with _at_start(getattr(policy, "module", policy).lm):
        return written_logprobs(policy, groups)


def written_logprobs(policy: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities (W,) float32 of the tokens that engines wrote; one pass."""
    logprobs: Tensor = policy(groups=groups)[1]
    return logprobs[torch.tensor(written_tokens(groups)[0], device=logprobs.device)]


@contextmanager
def _at_start(lm: Any) -> Iterator[None]:
    """The weights that training starts from, during the block."""
    if START not in lm.peft_config:
        with lm.disable_adapter():
            yield
        return
    lm.set_adapter(START)
    try:
        yield
    finally:
        lm.set_adapter(TRAINED)
