"""The groups of a step with all that its settings draw."""

from __future__ import annotations

import time
from dataclasses import replace

from torch import Tensor

from actors.training.further import Further
from actors.training.order import Batch
from actors.training.remaining import with_remaining
from actors.training.vine import with_inner_values
from actors.training.written import Written
from minirec.rl.group import Group


def completed(
    further: Further, step: int, groups: list[Group], batch: Batch, table: Tensor | None
) -> tuple[list[Group], Written]:
    """The groups, and what engines wrote in this step, the first rollouts included.

    Args:
        groups: of the global batch, with their first rollouts.
        batch: position and sample of each group.
        table: (V, d) item vectors, for rewards.
    """
    started, t, first = time.monotonic(), further.spec.training, Written.of(groups)
    if t.rollouts_first is not None:
        draw = with_remaining
    elif t.credit == "vine":
        draw = with_inner_values
    else:
        return groups, first
    assert table is not None
    groups, more = draw(further, step, groups, batch, table)
    return groups, replace(first + more, seconds=time.monotonic() - started)
