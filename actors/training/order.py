"""The samples of each training step in the order of a selection.

`LiveOrder` (actors/training/live.py) has the same methods and chooses them during the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch.distributed as dist
from torch import Tensor

from minirec.corpus.table import Sample
from minirec.rl.replay import pass_of

T = TypeVar("T")

Batch = list[tuple[int, Sample]]
"""For each prompt of a step its position in the training, which gives its seed, and its sample."""


def summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The log entries of several choices in one step, added up."""
    return {
        name: sum(part[name] for part in parts if name in part) for part in parts for name in part
    }


def of_all_ranks(own: Sequence[T]) -> list[T]:
    """The values of all ranks, in the order of the ranks; all must call."""
    parts = [[*own]]
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, [*own])
    return [one for part in parts for one in part]


def all_results(own: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """The results (P, 3) of the groups of all ranks, see `Order.learned`; all ranks must call."""
    return np.array(of_all_ranks(own), np.float64).reshape(-1, 3)


class Order(Protocol):
    """Says which samples a step trains. All ranks make the same calls."""

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        """Choose the samples of a step, if that needs the policy; returns entries for the log.

        Runs the policy, so all ranks must call it. `table` (V, d) holds the item vectors.
        """

    def batch(self, step: int) -> Batch:
        """The samples of a step that has been prepared."""

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        """Note the mean NDCG, the mean reward and the standard deviation of the rewards of each
        group of this rank; nothing without rollouts."""

    def save(self, folder: Path) -> None:
        """Add the state to a checkpoint; only rank 0 calls it."""

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint."""

    def finish(self, folder: Path) -> None:
        """Write what was chosen into the folder of the training; only rank 0 calls it."""


class DrawnOrder:
    """Another order, asked only in steps with new rollouts; the others train these again.

    What later steps on the same rollouts earn is not passed on: it is of text that an older policy
    wrote.
    """

    def __init__(self, order: Order, replays: int):
        """`replays` are the steps on the same rollouts."""
        self.order, self.replays = order, replays

    def _draws(self, step: int) -> bool:
        return pass_of(step, self.replays)[1] == 0

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        return self.order.prepare(step, table) if self._draws(step) else {}

    def batch(self, step: int) -> Batch:
        number, _ = pass_of(step, self.replays)
        return self.order.batch(number * self.replays)

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        if self._draws(step):
            self.order.learned(step, own)

    def save(self, folder: Path) -> None:
        self.order.save(folder)

    def restore(self, folder: Path) -> None:
        self.order.restore(folder)

    def finish(self, folder: Path) -> None:
        self.order.finish(folder)


class FixedOrder:
    """The order of a selection, again and again."""

    def __init__(
        self,
        order: Sequence[int],
        samples: Mapping[int, Sample],
        *,
        prompts: int,
        replays: int = 1,
    ):
        """Args:
        order: sample_ids in the order of training.
        samples: by sample_id.
        prompts: of a step.
        replays: steps with the same samples.
        """
        self.order, self.samples, self.prompts = order, samples, prompts
        self.replays = replays

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        return {}

    def batch(self, step: int) -> Batch:
        number, _ = pass_of(step, self.replays)
        positions = range(number * self.prompts, (number + 1) * self.prompts)
        return [(p, self.samples[self.order[p % len(self.order)]]) for p in positions]

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        pass

    def save(self, folder: Path) -> None:
        pass

    def restore(self, folder: Path) -> None:
        pass

    def finish(self, folder: Path) -> None:
        pass
