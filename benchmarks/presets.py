"""Planted truth kept by several selection settings, from the features of one finished demo run.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python benchmarks/presets.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from jobs.select import load_features
from minirec.artifacts import Run, read_table
from minirec.selection import learnability
from minirec.selection.diversity import maxmin
from minirec.selection.representativeness import alignment
from minirec.selection.value import combine

LABELS = ("learnable", "duplicate", "trivial", "noise")
PAPER = {"lift": False, "mu": 0.5, "sigma": None, "alpha": 1.0}
SETTINGS = {
    "paper: sigma = std, alpha 1": PAPER,
    "paper, rank fusion": PAPER | {"fusion": "rank"},
    "lift, sigma 0.3, alpha 1": PAPER | {"lift": True, "sigma": 0.3},
    "lift, sigma 0.3, alpha 2": PAPER | {"lift": True, "sigma": 0.3, "alpha": 2.0},
    "lift, sigma 0.3, alpha 4": PAPER | {"lift": True, "sigma": 0.3, "alpha": 4.0},
    "minirec: lift, sigma 0.3, alpha 8": PAPER | {"lift": True, "sigma": 0.3, "alpha": 8.0},
}


def shares(labels: np.ndarray) -> list[float]:
    """Share of each planted label."""
    return [float(np.mean(labels == label)) for label in LABELS]


def main(root: str, budget: float = 0.25) -> None:
    """Print the share of each planted label in the corpus and under each setting."""
    run = Run(root)
    features = load_features(run)
    items = read_table(run.path("corpus", "items.parquet")).num_rows
    truth = dict(
        zip(*read_table(run.path("corpus", "truth.parquet")).to_pydict().values(), strict=True)
    )
    labels = np.array([truth[i] for i in features.sample_id.tolist()])
    reward = features.rewards.mean(axis=1)
    lift = learnability.lift(reward, chance=learnability.chance_level(items))
    representative = alignment(features.hvp)
    print(f"{'setting':36}" + "".join(f"{label:>11}" for label in LABELS) + "  noise / corpus")
    print(f"{'whole corpus':36}" + "".join(f"{s:11.1%}" for s in shares(labels)))
    for name, s in SETTINGS.items():
        learnable = learnability.gaussian(
            lift if s["lift"] else reward, mu=s["mu"], sigma=s["sigma"]
        )
        value = combine(learnable, representative, alpha=s["alpha"], fusion=s.get("fusion", "sum"))
        picks = maxmin(features.embedding, scores=value, budget=round(budget * len(value))).indices
        kept = shares(labels[picks])
        ratio = kept[-1] / shares(labels)[-1]
        print(f"{name:36}" + "".join(f"{k:11.1%}" for k in kept) + f"{ratio:11.2f}")
    for label in LABELS:
        chosen = labels == label
        print(
            f"mean representativeness of {label}: {representative[chosen].mean():.2f}, "
            f"median lift {np.median(lift[chosen]):.2f}"
        )


if __name__ == "__main__":
    main(str(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")))
