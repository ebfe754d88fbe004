"""Differences of a finished comparison at equal steps, averaged over its budgets before testing.

.venv/bin/python benchmarks/budgets_together.py RUN [--split test] [--resamples 2000]

Each sample's NDCG@10 is averaged over the budgets, then methods are compared over seeds and samples
as in the comparison's own tables: fewer tests, each of more trainings. `full` has one training for
each seed. `base` is the policy before training, of RUN/ranks.parquet where the run has one
(`minirec run ... run_dir=RUN`). p is corrected (Holm) over the differences from one reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minirec.artifacts import read_table
from minirec.evaluation.paired import differences
from minirec.evaluation.ranking import per_sample

Floats = NDArray[np.float64]


def ndcg(ranks: Path, policy: str, split: str) -> Floats:
    """(N,) NDCG@10 in the order of the split's file."""
    table = read_table(ranks).to_pandas()
    mine = table[(table["policy"] == policy) & (table["split"] == split)]
    return per_sample(mine["rank"].to_numpy())["ndcg@10"]


def by_method(run: Path, split: str) -> dict[str, Floats]:
    """(S, N) mean over budgets by method; a row for each seed."""
    trials = read_table(run / "comparison.parquet").to_pandas()
    used = trials[(trials["status"] == "finished") & (trials["table"].isin(["steps", ""]))]
    found = {}
    for method, mine in used.groupby("method"):
        seeds = [
            np.mean([ndcg(one, "trained", split) for one in _ranks(run, part)], axis=0)
            for _, part in mine.groupby("seed")
        ]
        found[str(method)] = np.stack(seeds)
    base = run / "ranks.parquet"
    if base.exists():
        seeds = len(next(iter(found.values())))
        found["base"] = np.tile(ndcg(base, "base", split), (seeds, 1))
    return found


def _ranks(run: Path, trials: pd.DataFrame) -> list[Path]:
    return [run / "comparison" / name / "ranks.parquet" for name in trials["trial"]]


def main() -> None:
    """Print the differences from each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    means = by_method(args.run, args.split)
    for reference, values in means.items():
        others = {name: other for name, other in means.items() if name != reference}
        found = differences(others, values, resamples=args.resamples, seed=0)
        print(f"{reference}: {values.mean():.4f}")
        for name, d in found.items():
            print(
                f"  {name:12} {d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
                f"  p {d.p:.3f}  Holm {d.p_holm:.3f}"
            )


if __name__ == "__main__":
    main()
