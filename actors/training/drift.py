"""How far a policy has moved from the weights that its training started from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from minirec.model.recommender import Policy
from minirec.rl.group import Group, Unit
from minirec.rl.start import START, k3, start_logprobs, written_logprobs


def keep_start(policy: Policy, adapter: str) -> None:
    """Load the adapter that training starts from a second time, frozen."""
    policy.lm.load_adapter(adapter, START, is_trainable=False)


@torch.no_grad()
def kl_sums(engine: Any, parts: Sequence[Sequence[Group]]) -> dict[tuple[str, Unit], float]:
    """The sum of `k3` over the tokens that engines wrote, for the log; two passes of their own.

    Args:
        engine: as in `start_logprobs`.
        parts: groups in micro-batches.
    """
    total = 0.0
    for groups in parts:
        now = written_logprobs(engine, groups)
        total += float(k3(now, start_logprobs(engine, groups)).sum())
    return {("kl_start", "tokens"): total}
