"""Steps in which some prompts have no target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from actors.training.order import Batch, Order
from actors.training.spec import TrainingSpec
from minirec.corpus.table import SampleFile
from minirec.corpus.unlabelled import newest_samples, turns, without_target
from minirec.rl.replay import pass_of
from minirec.store.remote import located


def labelled_part(spec: TrainingSpec) -> TrainingSpec:
    """The training as the order of its samples sees it: steps of fewer prompts."""
    t = spec.training
    if not t.unlabelled:
        return spec
    fewer = {"prompts_per_step": t.labelled_per_step, "unlabelled": 0.0}
    return replace(spec, training=t.model_copy(update=fewer))


def with_unlabelled(order: Order, spec: TrainingSpec) -> Order:
    """The order of the samples, with prompts without a target behind those of each step."""
    return MixedOrder(order, spec) if spec.training.unlabelled else order


class MixedOrder:
    """An `Order` of samples, and of prompts that depend only on the seed and on the step."""

    def __init__(self, order: Order, spec: TrainingSpec):
        """`order` has the samples of `labelled_part` of the training."""
        t, corpus = spec.training, located(spec.corpus)
        self.order, self.training, self.seed = order, t, spec.seed
        self.newest = newest_samples(corpus)
        # The first round has each user once. So no more are needed, however many steps there are.
        places = t.unlabelled_per_step * (1 + pass_of(spec.steps - 1, t.replays)[0])
        ids = self._ids(range(min(places, len(self.newest))))
        found = SampleFile(corpus, "train").find(set(ids))
        self.prompts = {s.sample_id: without_target(s, longest=spec.history) for s in found}

    def _ids(self, places: range) -> list[int]:
        """The last train samples of the users that have these places."""
        rows = turns(len(self.newest), places, seed=self.seed)
        return self.newest[rows].tolist()

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        return self.order.prepare(step, table)

    def batch(self, step: int) -> Batch:
        number, _ = pass_of(step, self.training.replays)
        count = self.training.unlabelled_per_step
        ids = self._ids(range(number * count, (number + 1) * count))
        samples = [sample for _, sample in self.order.batch(step)]
        samples += [self.prompts[i] for i in ids]
        return [*enumerate(samples, number * self.training.prompts_per_step)]

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        """Pass on the results of the samples; pseudo-targets say nothing about them."""
        first = dist.get_rank() * len(own) if dist.is_initialized() else 0
        self.order.learned(step, own[: max(0, self.training.labelled_per_step - first)])

    def save(self, folder: Path) -> None:
        self.order.save(folder)

    def restore(self, folder: Path) -> None:
        self.order.restore(folder)

    def finish(self, folder: Path) -> None:
        self.order.finish(folder)
