"""A small corpus with a random model, and a spec for scoring it in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.engines.engine import EngineSpec
from actors.engines.transformers import TransformersEngine
from actors.scoring.spec import ScoringSpec
from helpers.tiny_model import build_model
from minirec.config.model import ModelConfig
from minirec.config.scoring import RewardConfig, ScoringConfig
from minirec.corpus import schema
from minirec.store.files import write_json
from minirec.store.tables import write_table

ITEMS, SAMPLES = 30, 24
WORDS = ["blue", "red", "pens", "paper", "desk", "user"]


class Counted:
    """Replaces the pool by an engine in this process, and counts completions."""

    def __init__(self, spec: EngineSpec):
        self.engine = TransformersEngine(spec)
        self.completions = 0

    def generate(self, calls, adapter=None):
        self.completions += sum(call.n * len(call.prompts) for call in calls)
        return [self.engine.generate(**vars(call), adapter=adapter) for call in calls]


def write_corpus(folder: Path, splits: Sequence[str] = ("train",)) -> None:
    """A catalogue of 30 items, and the same 24 samples in each split."""
    rng = np.random.default_rng(0)
    titles = [f"{WORDS[i % 6]} {WORDS[i // 6]} {i}" for i in range(ITEMS)]
    items = {"item_id": range(ITEMS), "key": titles, "title": titles, "text": titles}
    write_table(folder / "items.parquet", pa.table(items, schema=schema.ITEMS))
    write_json(folder / "corpus.json", {"category": "things"})
    history = [rng.choice(ITEMS, size=1 + i % 4, replace=False).tolist() for i in range(SAMPLES)]
    target = rng.integers(ITEMS, size=SAMPLES).astype(np.int32)
    # Every other sample excludes ten items of the same time, so its target ranks higher.
    others = [[(int(y) + 1 + j) % ITEMS for j in range(10 * (i % 2))] for i, y in enumerate(target)]
    samples = {
        "sample_id": np.arange(SAMPLES) * 3,
        "user": ["u"] * SAMPLES,
        "history": history,
        "history_rating": [[1.0] * len(h) for h in history],
        "history_time": [[1] * len(h) for h in history],
        "target": target,
        "rating": np.ones(SAMPLES, np.float32),
        "time": np.arange(SAMPLES),
        "same_time": others,
    }
    table = pa.table(samples, schema=schema.SAMPLES_WITH_SAME_TIME)
    for split in splits:
        write_table(folder / f"{split}.parquet", table)


def spec_of(folder: Path, *, splits: Sequence[str] = ("train",), pool: bool = True) -> ScoringSpec:
    """A spec for all samples of train; corpus and model are written into the folder."""
    write_corpus(folder / "corpus", splits)
    model = build_model(folder / "model")
    engine = EngineSpec(model=model, max_model_len=320, max_new_tokens=6)
    return ScoringSpec(
        corpus=str(folder / "corpus"),
        split="train",
        output=str(folder / "features"),
        item_table=str(folder / "items.npy"),
        model_path=model,
        model=ModelConfig(max_prompt_tokens=300),
        reward=RewardConfig(),
        adapter=None,
        scoring=ScoringConfig(),
        shard_size=16,
        prompts_per_call=10,
        seed=5,
        pool=Counted(engine) if pool else None,
        policy_adapter=None,
        threads=1,
    )
