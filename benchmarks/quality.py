"""NDCG@10 and, where items have weights, value@10 on test of the policies of several runs.

    .venv/bin/python benchmarks/quality.py runs/office-1 runs/office-2 runs/office-3

Figures are means over the runs, which differ in their seed; references are among the policies. The
runs have the same ``reward.item_weight``. Intervals are 95% bootstrap intervals: runs are
resampled, and in each run its users with all their samples. Runs of one corpus share the resampled
users. The last column is the paired difference of the trained policy. `--kinds` compares the policy
with the prior by kind of sample, in NDCG@10.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from minirec.corpus.table import load_samples, load_users
from minirec.corpus.weights import target_factors
from minirec.evaluation.ranking import MAIN, VALUE, interval, per_sample, sample_groups
from minirec.prior.prior import Prior

RESAMPLES = 2000


def item_weight(run: Path) -> str | None:
    """The column of weights of a run, if it has one."""
    return yaml.safe_load((run / "config.yaml").read_text())["reward"].get("item_weight")


class Gains:
    """A metric of each test sample of a run, by policy, with the users of the samples."""

    def __init__(self, run: Path, metric: str = MAIN):
        ranks = pq.read_table(run / "ranks.parquet").to_pandas()
        test = ranks[ranks["split"] == "test"]
        self.corpus = run / "corpus"
        column = item_weight(run)
        factors = column and target_factors(self.corpus, "test", column)
        self.by_policy = {
            str(name): per_sample(rows["rank"].to_numpy(), factors=factors)[metric]
            for name, rows in test.groupby("policy")
        }
        self.users = load_users(self.corpus, "test")
        self.target = [sample.target for sample in load_samples(self.corpus, "test")]

    def kinds(self) -> dict[str, np.ndarray]:
        """Masks of the samples by kind."""
        samples = load_samples(self.corpus, "test")
        known = Prior.of(self.corpus).known
        groups = sample_groups(
            [s.target for s in samples],
            history=[s.history for s in samples],
            train_counts=known.users,
        )
        left = np.diff(known.transitions.indptr)
        followed = left[[s.history[-1] for s in samples]] > 0
        return {
            "warm target": groups["warm"],
            "cold target": groups["cold"],
            "target in the top tenth": groups["popularity 1"],
            "last item followed in train": followed,
            "last item never followed": ~followed,
        }


def resampled(runs: Sequence[Gains], values: Sequence[np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Means over runs of the mean of `values` (N,) of each run, (R,)."""
    rng = np.random.default_rng(seed)
    shared = all(run.target == runs[0].target for run in runs)
    found = np.empty(RESAMPLES)
    for r in range(RESAMPLES):
        chosen = rng.integers(len(runs), size=len(runs))
        state = rng.integers(2**31)
        means = []
        for run in chosen:
            draw = np.random.default_rng(state if shared else [state, run])
            count = int(runs[run].users.max()) + 1
            times = np.bincount(draw.integers(count, size=count), minlength=count)
            weight = times[runs[run].users]
            means.append(np.average(values[run], weights=weight) if weight.any() else np.nan)
        found[r] = np.nanmean(means)
    return found


def cell(runs: Sequence[Gains], values: Sequence[np.ndarray], *, sign: str = "") -> str:
    mean = float(np.mean([v.mean() for v in values]))
    low, high = interval(resampled(runs, values))
    return f"{mean:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    runs = [Gains(run) for run in options.runs]
    print(
        f"{len(runs[0].users)} test samples, {len(set(runs[0].users.tolist()))} users (first run)"
    )
    if item_weight(options.runs[0]):
        print("value@10")
        table([Gains(run, VALUE) for run in options.runs])
        print("NDCG@10")
    table(runs)
    if options.kinds:
        masks = [run.kinds() for run in runs]
        for kind in masks[0]:
            inside = [mask[kind] for mask in masks]
            trained, prior = (
                np.mean([r.by_policy[name][i].mean() for r, i in zip(runs, inside, strict=True)])
                for name in ("trained", "prior")
            )
            count = np.mean([part.sum() for part in inside])
            print(f"{kind:28} n={count:5.0f} trained {trained:.4f} prior {prior:.4f}")


def table(runs: Sequence[Gains]) -> None:
    """Print a line for each policy, the best last, with its difference to the trained one."""
    names = set.intersection(*(set(run.by_policy) for run in runs))
    for name in sorted(names, key=lambda n: np.mean([run.by_policy[n].mean() for run in runs])):
        row = cell(runs, [run.by_policy[name] for run in runs])
        shift = [run.by_policy["trained"] - run.by_policy[name] for run in runs]
        against = "" if name == "trained" else cell(runs, shift, sign="+")
        print(f"{name:16} {row}  {against}")


if __name__ == "__main__":
    main()
