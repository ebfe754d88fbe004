"""Differences between the methods of a comparison, averaged over its budgets before testing.

.venv/bin/python benchmarks/budgets_together.py RUN [--split test] [--resamples 2000]

The NDCG@10 of each sample is averaged over the budgets of the trainings at equal steps. Then the
methods are compared over seeds and users. This gives fewer tests, each from more trainings. `full`
has early stopping and one training per seed. `base` is the policy before training, from
RUN/ranks.parquet if the run has it. p is corrected (Holm) over the differences from one reference,
so each pair is in two families.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.corpus.table import load_users
from minirec.evaluation.paired import Bootstrap, differences
from minirec.evaluation.ranking import per_sample
from minirec.store.tables import read_table

Floats = NDArray[np.float64]


def ranked(file: Path, policy: str, split: str) -> pd.Series:
    """NDCG@10 by ascending sample_id; empty if the file has no such ranks."""
    table = read_table(file).to_pandas()
    mine = table[(table["policy"] == policy) & (table["split"] == split)].sort_values("sample_id")
    if mine.empty:
        return pd.Series(dtype=float)
    return pd.Series(per_sample(mine["rank"].to_numpy())["ndcg@10"], index=mine["sample_id"])


def by_method(run: Path, split: str) -> dict[str, Floats]:
    """(S, N) mean over budgets by method: one row per seed, one column per sample."""
    trials = read_table(run / "comparison" / "trials.parquet").to_pandas()
    trials = trials[trials["table"].isin(["steps", ""])].fillna({"budget": 0})
    failed = trials[trials["status"] != "finished"]["trial"]
    if len(failed):
        sys.exit(f"{failed.iloc[0]} of {run} has not finished; run `minirec compare` on it again")
    done = {
        method: mine.set_index(["seed", "budget"]).sort_index()["trial"]
        for method, mine in trials.groupby("method")
    }
    cells = {method: set(mine.index) for method, mine in done.items() if method != "full"}
    first = next(iter(cells))
    for method in cells:
        if cells[method] != cells[first]:
            sys.exit(f"{method} and {first} have other seeds or budgets; compare the same of both")
    means = {}
    for method, mine in done.items():
        files = mine.map(lambda name: run / "comparison" / name / "ranks.parquet")
        found = files.map(lambda file: ranked(file, "trained", split))
        seeds = [np.mean(list(part), axis=0) for _, part in found.groupby("seed")]
        means[str(method)] = np.stack(seeds)
    if (run / "ranks.parquet").exists():
        base = ranked(run / "ranks.parquet", "base", split)
        if len(base):
            means["base"] = np.tile(base, (len(means[first]), 1))
    return means


def main() -> None:
    """Print the differences from each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    means = by_method(args.run, args.split)
    users = load_users(args.run / "corpus", args.split)
    for reference, values in means.items():
        others = {name: other for name, other in means.items() if name != reference}
        found = differences(others, values, Bootstrap(users, args.resamples, seed=0))
        print(f"{reference}: {values.mean():.4f}")
        for name, d in found.items():
            print(
                f"  {name:12} {d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
                f"  p {d.p:.3f}  Holm {d.p_holm:.3f}"
            )


if __name__ == "__main__":
    main()
