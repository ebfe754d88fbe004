"""How far a policy has moved from the weights that its training started from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from minirec.model.recommender import Policy
from minirec.rl.group import Group, written_tokens
from minirec.rl.losses import Unit

START = "start"
TRAINED = "default"  # peft's name for the adapter in training


def keep_start(policy: Policy, adapter: str) -> None:
    """Load the adapter that training starts from a second time, frozen."""
    policy.lm.load_adapter(adapter, START, is_trainable=False)


def k3(policy: Tensor, start: Tensor) -> Tensor:
    """Terms of the k3 estimate of KL(policy || start) from log-probabilities of the same shape.

    With r = log start - log policy, a term is exp(r) - 1 - r >= 0. Its mean over tokens that the
    policy drew is the KL (http://joschu.net/blog/kl-approx.html).
    """
    r = start - policy
    return r.exp() - 1 - r


@torch.no_grad()
def kl_sums(engine: Any, parts: Sequence[Sequence[Group]]) -> dict[tuple[str, Unit], float]:
    """The sum of `k3` over the tokens that engines wrote, for the log; two passes of their own.

    Args:
        engine: the policy, or a DeepSpeed engine around it. If `keep_start` has not loaded another
            adapter, the start is the model without adapter.
        parts: groups in micro-batches.
    """
    lm = getattr(engine, "module", engine).lm
    total = 0.0
    for groups in parts:
        now = _logprobs(engine, groups)
        with _at_start(lm):
            start = _logprobs(engine, groups)
        total += float(k3(now, start).sum())
    return {("kl_start", "tokens"): total}


@torch.no_grad()
def start_logprobs(engine: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities (W,) of the written tokens by the weights that training starts from."""
    with _at_start(getattr(engine, "module", engine).lm):
        return _logprobs(engine, groups)


def _logprobs(engine: Any, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities (W,) of the tokens that engines wrote."""
    logprobs: Tensor = engine(groups=groups)[1]
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
