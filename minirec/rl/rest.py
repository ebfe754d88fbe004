"""The share of a large catalogue in the softmax of the item loss, computed in blocks of items.

The items have no gradient, but the hidden states have. So only the log-sum-exp of each row is kept.
The backward pass computes the scores of each block again, as activation checkpointing does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minirec.rl.ranker import Targets

SCORES = 1 << 24
"""Scores of a block: 64 MiB in float32."""


def log_sum_exp(
    unit: Tensor,
    *,
    table: Tensor,
    without: Tensor,
    targets: Targets,
    temperature: float,
    scores: int = SCORES,
) -> Tensor:
    """log sum_v exp(u . w_v / tau + prior) (P,) of unit vectors (P, d), with their gradient.

    v are the items of `table` (V, d), which needs no gradient, without the items `without` (C,),
    and without the excluded items of a row (`targets`). It is -inf where none is left. At most
    about `scores` scores are in memory.
    """
    size = max(1, scores // max(1, len(unit)))
    found: Tensor = _LogSumExp.apply(unit, _Blocks(table, without, targets, temperature, size))
    return found


@dataclass(frozen=True)
class _Blocks:
    table: Tensor
    without: Tensor
    targets: Targets
    temperature: float
    size: int

    def of(self, unit: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Items (n, d) and their scores (P, n), -inf for those that are left out."""
        for start in range(0, len(self.table), self.size):
            stop = min(start + self.size, len(self.table))
            items = self.table[start:stop].to(unit)
            scores = unit @ items.T / self.temperature
            if self.targets.prior is not None:
                scores += self.targets.prior.columns(start, stop)
            scores.masked_fill_(self.targets.excluded.columns(start, stop), -torch.inf)
            inside = (self.without >= start) & (self.without < stop)
            scores[:, self.without[inside] - start] = -torch.inf
            yield items, scores


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Tensor, blocks: _Blocks) -> Tensor:
        total = unit.new_full((len(unit),), -torch.inf)
        for _, scores in blocks.of(unit):
            total = torch.logaddexp(total, scores.logsumexp(1))
        ctx.blocks = blocks
        ctx.save_for_backward(unit, total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        unit, total = ctx.saved_tensors
        # A row in which all items are left out has no probabilities.
        safe = total.masked_fill(total.isinf(), 0)
        result = torch.zeros_like(unit)
        for items, scores in ctx.blocks.of(unit):
            result += scores.sub_(safe[:, None]).exp_() @ items
        return result * (gradients[0] / ctx.blocks.temperature)[:, None], None
