"""The settings of a scorer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.engines.engine import Adapter
from actors.pool.handle import PoolHandle
from minirec.config.model import ModelConfig
from minirec.config.scoring import RewardConfig, ScoringConfig
from minirec.rng import seed_of
from minirec.store.remote import located


@dataclass(frozen=True)
class ScoringSpec:
    """The settings of a scorer; picklable.

    output: folder of the shards.
    item_table: file of the policy's item vectors, which specs of one policy share.
    scoring: how samples are screened and rolled out; None: rank only the greedy completion.
    limit: number of samples, drawn at random; None: all.
    pool: None: no analysis is written, and the forced answer is the only rollout of a sample.
    prior: folder of the weights of the collaborative prior.
    trained: sample_ids of the train split that the policy was trained on.
    orders, orders_keep, rerank: as in `EvaluationConfig`; only with `scoring` None.
    """

    corpus: str
    split: str
    output: str
    item_table: str
    model_path: str
    model: ModelConfig
    reward: RewardConfig
    adapter: str | None
    scoring: ScoringConfig | None
    shard_size: int
    prompts_per_call: int
    seed: int
    pool: PoolHandle | None
    policy_adapter: Adapter | None
    threads: int
    device: str = "cpu"
    limit: int | None = None
    prior: str | None = None
    trained: frozenset[int] = frozenset()
    orders: int = 0
    orders_keep: int = 1
    rerank: str = "none"

    def rows(self, samples: int) -> Sequence[int]:
        """The rows to score in the split's file of `samples` rows, ascending."""
        if self.limit is None or self.limit >= samples:
            return range(samples)
        # Draw samples for evaluation independently of those for selection.
        word = "limit" if self.scoring is None else "scored"
        draw = random.Random(seed_of(self.seed, self.split, word))
        return sorted(draw.sample(range(samples), self.limit))

    @property
    def policy(self) -> tuple[object, ...]:
        """Specs with equal values can share a loaded policy."""
        shared = (self.corpus, self.model_path, self.adapter, self.item_table, self.device)
        return *shared, self.prior, self.merges

    @property
    def merges(self) -> bool:
        """Whether the adapter is merged into the weights: unless rewards need these without it."""
        return self.scoring is None or not self.reward.reads_base

    def part(self, shard: int) -> Path:
        return located(self.output) / f"part-{shard:06d}.parquet"
