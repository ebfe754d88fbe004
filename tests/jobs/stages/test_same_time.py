"""Baskets in every stage: items of the same user and time never compete with the target."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from helpers.small import finish

from jobs.training_log import read_log
from minirec.config.corpus import DemoConfig
from minirec.corpus import demo
from minirec.corpus.table import load_samples
from minirec.store.tables import read_table

PERIOD_MS = 60 * 24 * 3600 * 1000


def write_baskets(folder) -> None:
    """The demo's events with times rounded to two months, so that many share a time."""
    events, items, _ = demo.generate(DemoConfig(users=60, items=60, tastes=4), seed=7)
    period = events.time // PERIOD_MS * PERIOD_MS + 1_000
    columns = {
        "user": events.users.take(pa.array(events.user)),
        "item": items.table["key"].take(pa.array(events.item)),
        "time": period,
    }
    folder.mkdir()
    pacsv.write_csv(pa.table(columns), folder / "events.csv")
    catalogue = items.table.select(["key", "title", "text"]).rename_columns({"key": "item"})
    pacsv.write_csv(catalogue, folder / "items.csv")


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_training_validates_as_the_evaluation_ranks(tmp_path):
    write_baskets(tmp_path / "shop")
    run_dir = tmp_path / "run"
    shop = f"corpus={{source: table, path: {tmp_path / 'shop'}}}"
    finish(run_dir, "run", shop, "training.validation_steps=8", "training.validation_samples=999")
    samples = load_samples(run_dir / "corpus", "valid")
    assert sum(map(len, (s.same_time for s in samples))) > len(samples) / 4
    log = read_log(run_dir / "policy" / "log.jsonl")
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    found = evaluation["policies"]["trained"]["valid"]["ndcg@10"]["mean"]
    assert log[-1]["valid_ndcg@10"] == pytest.approx(found, abs=1e-6)
    # Popularity by plain loops: rivals are outside the history and the time of the target.
    train = read_table(run_dir / "corpus" / "train.parquet").to_pylist()
    having = {(row["user"], item) for row in train for item in [*row["history"], row["target"]]}
    items = len(read_table(run_dir / "corpus" / "items.parquet"))
    counts = np.bincount([item for _, item in having], minlength=items)
    table = read_table(run_dir / "ranks.parquet").to_pandas()
    ranks = table[(table["policy"] == "popularity") & (table["split"] == "valid")]
    for sample, rank in zip(samples, ranks["rank"], strict=True):
        rivals = {*range(items)} - {*sample.history, *sample.same_time, sample.target}
        assert rank == 1 + sum(counts[item] >= counts[sample.target] for item in rivals)
