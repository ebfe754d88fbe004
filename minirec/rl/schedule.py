"""The learning rate of a step."""

from __future__ import annotations

import math


def lr_factor(step: int, *, steps: int, warmup: int, schedule: str, spent: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `steps`, in 0..1.

    It rises over `warmup` steps. Then it is constant, or falls (linear, cosine) and would be 0 one
    step after the last. `spent` is the share of `token_limit` before this step: the larger of both
    shares counts, so that the fall spans the whole cost.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = max((step - warmup) / max(1, steps - warmup), spent)
    if schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
