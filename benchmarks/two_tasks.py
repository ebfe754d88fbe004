"""Next visit and next event, on the common test targets of two runs.

.venv/bin/python benchmarks/two_tasks.py EXCLUDE KEEP [--resamples 2000]

EXCLUDE and KEEP are runs of `minirec compare` with configs/two-tasks.yaml, the first with
``corpus.same_time=exclude``, the second with ``keep``. A common target is an event (user, item,
time) in both test splits. Only its history and the excluded items differ. Intervals (95%) are over
users, for the trained policy over seeds and users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from minirec.evaluation.paired import Bootstrap, differences, standing
from minirec.evaluation.ranking import per_sample
from minirec.store.files import read_json
from minirec.store.tables import read_table

POLICIES = ("popularity", "cooccurrence", "title_likeness", "trained")
EVENT = ["user", "key", "time"]


def targets(run: Path) -> pd.DataFrame:
    """A row for each test sample; `basket`: its history holds an event of its time."""
    keys = read_table(run / "corpus" / "items.parquet")["key"].to_numpy(zero_copy_only=False)
    table = read_table(run / "corpus" / "test.parquet").to_pandas()
    table["key"] = keys[table["target"]]
    table["basket"] = [
        h[-1] == t for h, t in zip(table["history_time"], table["time"], strict=True)
    ]
    return table[["sample_id", "basket", *EVENT]]


def gains(run: Path, policy: str) -> pd.DataFrame:
    """NDCG@10 by sample_id, a column for each training on full data."""
    columns = {}
    for trial in sorted((run / "comparison").glob("full_seed-*")):
        ranks = read_table(trial / "ranks.parquet").to_pandas()
        mine = ranks[(ranks["policy"] == policy) & (ranks["split"] == "test")]
        gain = per_sample(mine["rank"].to_numpy())["ndcg@10"]
        columns[trial.name] = pd.Series(gain, index=mine["sample_id"])
    return pd.DataFrame(columns)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("exclude", type=Path)
    parser.add_argument("keep", type=Path)
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    runs = {"exclude": args.exclude, "keep": args.keep}
    found = {name: targets(run) for name, run in runs.items()}
    for name, run in runs.items():
        corpus = read_json(run / "corpus" / "corpus.json")
        shared = corpus["same_time"]["shared"]
        print(f"{name}: samples {corpus['samples']}, of them not alone at their time {shared}")
    both = found["exclude"].merge(found["keep"], on=EVENT, suffixes=("_exclude", "_keep"))
    users = np.unique(both["user"], return_inverse=True)[1]
    print(f"{len(both)} common targets of {users.max() + 1} users; ", end="")
    print(f"{both['basket_keep'].mean():.1%} have their time in the history of keep")
    print(
        "| ranked by | exclude, all | keep, all | exclude, common | keep, common | keep - exclude |"
    )
    print("|---|---|---|---|---|---|")
    for policy in POLICIES:
        own = {name: gains(run, policy) for name, run in runs.items()}
        common = {name: own[name].loc[both[f"sample_id_{name}"]].to_numpy().T for name in runs}
        bootstrap = Bootstrap(users, args.resamples, seed=0)
        cells = [f"{own[name].to_numpy().mean():.3f}" for name in runs]
        for name in runs:
            s = standing(common[name], bootstrap)
            cells.append(f"{s.mean:.3f} ({s.low:.3f} to {s.high:.3f})")
        d = differences({policy: common["keep"]}, common["exclude"], bootstrap)[policy]
        cells.append(f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})")
        print(f"| {policy} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
