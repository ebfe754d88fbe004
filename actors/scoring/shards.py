"""Scores shards: a callable for Ray Data, and a loop for the kept training worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from actors.process import deadline
from actors.scoring.policy import LoadedPolicy
from actors.scoring.scorer import ShardScorer
from actors.scoring.spec import ScoringSpec
from minirec.store.remote import located


class Scorer:
    """Scores shards of several specs, such as each policy on each split."""

    def __init__(
        self,
        specs: list[ScoringSpec],
        load: Callable[[ScoringSpec], LoadedPolicy] = LoadedPolicy,
    ):
        self.specs, self.load = specs, load
        self._current: ShardScorer | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the files of the shards named by ``batch["spec"]`` and ``batch["shard"]``."""
        for number, shard in zip(batch["spec"].tolist(), batch["shard"].tolist(), strict=True):
            self.write(number, shard)
        return batch

    def write(self, number: int, shard: int) -> None:
        """Write one shard of spec `number`; the policy stays loaded for the next call."""
        spec = self.specs[number]
        if self._current is None or self._current.spec is not spec:
            torch.set_num_threads(spec.threads)
            loaded = self._current.loaded if self._current else None
            if self._current and self._current.spec.policy != spec.policy:
                self._current = loaded = None  # two models may not fit
            self._current = ShardScorer(spec, loaded or self.load(spec))
        self._current.write(shard)


@dataclass(frozen=True)
class ShardsSpec:
    """Shards for `score_loop`, each as number of its spec and shard number; picklable."""

    specs: list[ScoringSpec]
    shards: list[tuple[int, int]]
    deadline_s: float  # of one shard


def score_loop(config: dict[str, ShardsSpec]) -> None:
    """Score the shards that an earlier attempt has not finished."""
    spec = config["spec"]
    scorer = Scorer(spec.specs)
    for number, shard in spec.shards:
        one = spec.specs[number]
        if one.part(shard).exists() and located(one.item_table).exists():
            continue
        with deadline(spec.deadline_s):
            scorer.write(number, shard)
