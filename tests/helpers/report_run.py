"""A synthetic run with the artifacts of every stage, for tests of `select` and of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from jobs.stages.evaluate import EVALUATE
from jobs.stages.prepare import PREPARE
from jobs.stages.proxy import PROXY
from jobs.stages.score import SCORE
from jobs.stages.train import TRAIN
from minirec.config.run import Config
from minirec.config.selection import SelectionConfig
from minirec.corpus import schema
from minirec.evaluation.policies import REFERENCES
from minirec.evaluation.ranking import sample_groups, summarise
from minirec.store.files import write_json
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table

ITEMS, SAMPLES, WIDTH = 40, 160, 8
ATTACK = "<script>alert('title')</script>"


def make_run(root: Path, *, truth: bool = True) -> Run:
    """Artifacts of every stage before `select`, and of `train` and `evaluate`."""
    rng = np.random.default_rng(0)
    run = Run(root, say=lambda _: None)
    titles = [f"Item {i}" for i in range(ITEMS)]
    titles[1] = ATTACK
    items = {"item_id": range(ITEMS), "key": titles, "title": titles, "text": titles}
    write_table(run.path("corpus", "items.parquet"), pa.table(items, schema=schema.ITEMS))
    history = [rng.integers(ITEMS, size=3).tolist() for _ in range(SAMPLES)]
    history[0] = [1, 2]
    target = rng.integers(ITEMS, size=SAMPLES)
    samples = {
        "sample_id": np.arange(SAMPLES) * 2,
        "user": [f"u{i}" for i in range(SAMPLES)],
        "history": history,
        "history_rating": [[5.0] * len(h) for h in history],
        "history_time": [[1] * len(h) for h in history],
        "target": target.astype(np.int32),
        "rating": np.full(SAMPLES, 5, np.float32),
        "time": np.arange(SAMPLES),
    }
    write_table(run.path("corpus", "train.parquet"), pa.table(samples, schema=schema.SAMPLES))
    if truth:
        labels = np.array(["learnable", "noise", "trivial"])[np.arange(SAMPLES) % 3]
        table = pa.table({"sample_id": samples["sample_id"], "label": labels}, schema=schema.TRUTH)
        write_table(run.path("corpus", "truth.parquet"), table)
    sizes = {"train": SAMPLES, "valid": 60, "test": 60}
    shared = {"train": SAMPLES // 2, "valid": 0, "test": 15}
    same_time = {"setting": "exclude", "shared": shared, "left_out": 7}
    notes = ["7 of 9 items have several titles, such as <b>"]
    summary = {"source": "demo", "samples": sizes, "same_time": same_time, "notes": notes}
    free = {"popularity": 0.0629, "shortcut": 0.4619}
    summary["shortcuts"] = {"samples": 60, "ndcg@10": free, "best": "shortcut"}
    write_json(run.path("corpus", "corpus.json"), summary)
    write_features(run, samples["sample_id"], rng)
    for name in ("proxy", "policy"):
        rows = [
            {"step": s, "reward": 0.2 + s / 100, "loss": -s / 50, "dead_groups": 0.3}
            for s in range(20)
        ]
        run.path(name).mkdir(parents=True)
        run.path(name, "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    ranks = {
        "base": {s: rng.integers(1, ITEMS, size=60) for s in ("valid", "test")},
        "trained": {s: rng.integers(1, 15, size=60) for s in ("valid", "test")},
        "trained_alone": {s: rng.integers(1, 20, size=60) for s in ("valid", "test")},
        "prior": {s: rng.integers(1, 18, size=60) for s in ("valid", "test")},
        "shortcut": {s: rng.integers(1, 4, size=60) for s in ("valid", "test")},
        "popularity": {s: rng.integers(1, 25, size=60) for s in ("valid", "test")},
        "cooccurrence": {s: rng.integers(1, 22, size=60) for s in ("valid", "test")},
        "title_likeness": {s: rng.integers(1, 23, size=60) for s in ("valid", "test")},
    }
    groups = sample_groups(target[:60], history=history[:60], train_counts=np.arange(ITEMS))
    users = {split: np.arange(60) for split in ("valid", "test")}
    evaluation = summarise(
        ranks, users=users, groups={"test": groups}, bootstrap=50, references=REFERENCES
    )
    write_json(run.path("evaluation.json"), evaluation)
    run.path("config.yaml").write_text(yaml.safe_dump(Config().model_dump(mode="json")))
    for stage in (PREPARE, PROXY, SCORE, TRAIN, EVALUATE):
        inputs = ["proxy"] if stage is SCORE else []
        options = {"settings": {}, "outputs": [], "charged": stage.charged}
        run.stage(stage.name, inputs=inputs, body=lambda cost: None, **options)
    return run


def write_features(run: Run, ids: np.ndarray, rng: np.random.Generator) -> None:
    """Two shards, the later samples first, as scoring may finish them."""
    ndcg = rng.choice([0.2, 0.4, 1.0], size=(SAMPLES, 4), p=[0.7, 0.2, 0.1]).astype(np.float32)
    embedding = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float16)
    embedding[SAMPLES // 2 :] = embedding[: SAMPLES // 2]
    hvp = (rng.normal(size=(SAMPLES, WIDTH)) + 0.3).astype(np.float32)
    hvp[3] = 0
    columns = {
        "sample_id": ids,
        "rewards": list(0.95 * ndcg),
        "ndcg": list(ndcg),
        "hits": (ndcg > 0.4).sum(axis=1).astype(np.int8),
        "completions": [[f"likes <b>{i}</b>"] * 4 for i in range(SAMPLES)],
        "tokens": [[[i, 1]] * 4 for i in range(SAMPLES)],
        "embedding": list(embedding),
        "gradient": list(hvp),
        "rollout_gradient": list(hvp),
        "hvp": list(hvp),
        "el2n": np.ones(SAMPLES, np.float32),
        "rollout_tokens": np.full(SAMPLES, 40),
        "forward_tokens": np.full(SAMPLES, 100),
        "screened": np.zeros(SAMPLES, bool),
        "control": np.zeros(SAMPLES, bool),
        "in_sample": np.zeros(SAMPLES, bool),
        "screen_reward": [None] * SAMPLES,
        "screen_ndcg": [None] * SAMPLES,
    }
    table = pa.table(columns, schema=schema.features(WIDTH))
    write_table(run.path("features", "part-00000.parquet"), table.slice(SAMPLES // 2))
    write_table(run.path("features", "part-00001.parquet"), table.slice(0, SAMPLES // 2))


def screen_features(run: Run) -> None:
    """Every fourth sample screened at NDCG 0.125, every fourth a control; two rollouts for some."""
    for part in run.path("features").glob("part-*.parquet"):
        rows = read_table(part).to_pylist()
        for row in rows:
            place = row["sample_id"] // 2 % 4
            row |= {"screened": place == 0, "control": place == 1}
            row |= {"screen_ndcg": 0.125 if place < 2 else 0.9, "screen_reward": 0.1875}
            keep = (0, 4, 2, 4)[place]
            for name in ("rewards", "ndcg", "completions", "tokens"):
                row[name] = row[name][:keep]
            row["hits"] = sum(gain > 0.4 for gain in row["ndcg"])
        write_table(part, pa.Table.from_pylist(rows, schema=schema.features(WIDTH)))


def config(**selection) -> Config:
    return Config(selection=SelectionConfig(**selection))
