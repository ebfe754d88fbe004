"""An engine and a scorer without computation, to measure the overhead around them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from actors.engines.engine import Adapter, Completion, EngineSpec
from actors.pool.actor import Call
from minirec.corpus import schema
from minirec.corpus.table import SampleFile
from minirec.store.tables import write_table

WIDTH = 8  # of embedding and gradient
COMPLETION = Completion("<answer>", [1], [0.0], stopped=True)


class SleepingEngine:
    """Sleeps ``spec.temperature`` seconds per call; records its times in the folder ``spec.model``.

    With an empty model name nothing is recorded.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.seconds = spec.temperature
        self.log = Path(spec.model, f"{os.getpid()}.jsonl") if spec.model else None

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        limits: list[int] | None = None,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """The same completion for every prompt, after a sleep."""
        started = time.time()
        time.sleep(self.seconds)
        if self.log:
            with self.log.open("a") as file:
                file.write(json.dumps([started, time.time()]) + "\n")
        return [[COMPLETION] * n for _ in prompts]

    def load_adapter(self, adapter: Adapter | None) -> None:
        """Nothing to load."""

    def probe(self) -> dict[str, Any]:
        """Does nothing."""
        return {"engine": "sleeping", "token": 0}

    def close(self) -> None:
        """Nothing to free."""


class SleepingScorer:
    """Reads samples, calls the pool and writes shards like `actors.scoring.shards.Scorer`."""

    def __init__(self, specs: list[Any]):
        self.spec = specs[0]
        self.samples = SampleFile(Path(self.spec.corpus), self.spec.split)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the shards named by ``batch["shard"]``."""
        spec = self.spec
        for shard in batch["shard"].tolist():
            rows = range(len(self.samples))[shard * spec.shard_size :][: spec.shard_size]
            samples = self.samples.take(rows)
            prompts = [sample.history for sample in samples]
            blocks = [
                slice(start, start + spec.prompts_per_call)
                for start in range(0, len(prompts), spec.prompts_per_call)
            ]
            calls = [Call(prompts[b], 1, [0] * len(prompts[b]), greedy=True) for b in blocks]
            calls += [Call(prompts[b], 2, [0] * len(prompts[b])) for b in blocks]
            spec.pool.generate(calls)
            write_table(spec.part(shard), features([sample.sample_id for sample in samples]))
        return batch


def features(sample_ids: list[int]) -> pa.Table:
    """A shard of features with two rollouts for each sample."""
    count = len(sample_ids)
    random = np.random.default_rng(sample_ids[0])
    pairs = pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32))
    rewards = pa.array(random.random(2 * count, dtype=np.float32))
    ones = pa.array(np.ones(2 * count, np.int32))
    each = pa.array(np.arange(2 * count + 1, dtype=np.int32))
    tokens = pa.ListArray.from_arrays(each, ones)
    texts = pa.array([COMPLETION.text] * (2 * count))
    columns = {
        "sample_id": pa.array(sample_ids, pa.int64()),
        "rewards": pa.ListArray.from_arrays(pairs, rewards),
        "ndcg": pa.ListArray.from_arrays(pairs, rewards),
        "hits": np.ones(count, np.int8),
        "completions": pa.ListArray.from_arrays(pairs, texts),
        "tokens": pa.ListArray.from_arrays(pairs, tokens),
        **{
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(random.random(count * WIDTH, dtype=np.float32).astype(kind)), WIDTH
            )
            for name, kind in (
                ("embedding", np.float16),
                ("gradient", np.float32),
                ("rollout_gradient", np.float32),
                ("hvp", np.float32),
            )
        },
        "el2n": random.random(count, dtype=np.float32),
        "rollout_tokens": np.full(count, 3, np.int64),
        "forward_tokens": np.full(count, 100, np.int64),
        "screened": np.zeros(count, bool),
        "control": np.zeros(count, bool),
        "in_sample": np.zeros(count, bool),
        "screen_reward": pa.nulls(count, pa.float32()),
        "screen_ndcg": pa.nulls(count, pa.float32()),
    }
    return pa.table(columns, schema=schema.features(WIDTH))
