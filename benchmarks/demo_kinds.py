"""Test and validation NDCG@10 of a trained demo policy by kind of target.

.venv/bin/python benchmarks/demo_kinds.py runs/compare FOLDER [FOLDER ...]

FOLDER is a trial of the comparison, e.g. comparison/full_seed-1. In the demo, titles show which
items belong to one series, but only interactions show the order of a series and the next series. So
a target in a series of the last two events can be found by words alone, except for its position
among at most five items. Any other target (the next series, a bestseller, noise) needs facts about
single items. "trained" are targets that the policy was trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from minirec.evaluation.ranking import per_sample
from minirec.store.tables import read_table

RECENT = 2


def series(title: str) -> str:
    """The words that the items of a series share; a bestseller has none."""
    return "" if title.startswith("Bestseller") else title.rpartition(" ")[0]


def kinds(run: Path, trial: Path) -> pd.DataFrame:
    """Mean NDCG@10 and number of samples by kind of target, and whether it was trained on."""
    corpus = run / "corpus"
    titles = read_table(corpus / "items.parquet", ["title"])["title"].to_pylist()
    columns = ["sample_id", "history", "target"]
    splits = [read_table(corpus / f"{s}.parquet", columns).to_pandas() for s in ("valid", "test")]
    train = read_table(corpus / "train.parquet", columns).to_pandas()
    chosen = read_table(trial / "selection.parquet", ["sample_id"])["sample_id"].to_pylist()
    trained = set(train.loc[train["sample_id"].isin(chosen), "target"])
    ranks = read_table(trial / "ranks.parquet").to_pandas()
    ranks = ranks[(ranks["policy"] == "trained") & ranks["split"].isin(["valid", "test"])]
    samples = pd.concat(splits).merge(ranks[["sample_id", "rank"]], on="sample_id")
    recent = [
        {series(titles[item]) for item in history if series(titles[item])}
        for history in (own[-RECENT:] for own in samples["history"])
    ]
    named = [series(titles[target]) for target in samples["target"]]
    samples["kind"] = [
        "series of the last two" if own in seen else "other"
        for own, seen in zip(named, recent, strict=True)
    ]
    samples["trained"] = samples["target"].isin(trained)
    samples["ndcg@10"] = per_sample(samples["rank"].to_numpy())["ndcg@10"]
    return samples.groupby(["kind", "trained"])["ndcg@10"].agg(["mean", "count"])


def main(run: str, *trials: str) -> None:
    """Print a table for each trial."""
    for trial in trials:
        print(f"{trial}\n{kinds(Path(run), Path(run) / trial).round(3)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
