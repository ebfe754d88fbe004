"""The item side of a training step: item table, candidates of the item loss, and their gradient.

The gradient of the candidate vectors is summed over all micro-batches and workers, and goes through
the item encoder once. So the result does not depend on their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from minirec.model.recommender import item_table
from minirec.rl.losses import Candidates


class ItemSide:
    """Encodes the catalogue for one training worker, and backpropagates into the items.

    Both methods run the model, so all workers must call them at the same steps.
    """

    def __init__(
        self,
        engine: Any,
        items: Sequence[Sequence[int]],
        *,
        refresh_steps: int,
        log_presence: Tensor | None = None,
    ):
        """Args:
        engine: DeepSpeed engine around the policy.
        items: V token lists (`Encoder.items`).
        refresh_steps: steps between encodings of the whole catalogue.
        log_presence: (V,) float32, see `Candidates`.
        """
        self.engine, self.items, self.refresh_steps = engine, items, refresh_steps
        self.log_presence = log_presence
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._table: Tensor | None = None

    def candidates(self, step: int, targets: Iterable[int]) -> Candidates:
        """The distinct `targets` of the global batch; these must be the same on all workers.

        The whole catalogue is encoded at steps that `refresh_steps` divides.
        """
        ids = torch.tensor(sorted(set(targets)), device=self.engine.device)
        with torch.no_grad():
            if self._table is None or step % self.refresh_steps == 0:
                self._table = item_table(self.engine, self.items)
                vectors = self._table[ids]  # a copy
            else:
                vectors = item_table(self.engine, [self.items[i] for i in ids.tolist()])
        return Candidates(ids, vectors.requires_grad_(True), self._table, self.log_presence)

    def backward(self, candidates: Candidates, *, backwards: int) -> None:
        """Send the collected gradient through the item encoder; the last backward of a step.

        Args:
            backwards: number of backwards of the step including this one, over which DeepSpeed
                averages the gradient.
        """
        collected = candidates.vectors.grad
        gradient = torch.zeros_like(candidates.vectors) if collected is None else collected
        if self.world > 1:
            dist.all_reduce(gradient)
        # Every rank runs a backward, even without an item of its own (more ranks than items).
        ids = candidates.ids.tolist()
        mine = range(self.rank, len(ids), self.world) or range(1)
        weight = 1.0 if self.rank < len(ids) else 0.0
        vectors = F.normalize(self.engine([self.items[ids[i]] for i in mine])[0], dim=-1)
        # The gradient contains the factor for the average over ranks. This backward divides by
        # the number of backwards again.
        self.engine.backward((vectors * gradient[list(mine)]).sum() * weight * backwards)
