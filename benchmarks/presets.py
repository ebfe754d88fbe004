"""Planted truth kept by several selection settings, from the features of finished demo runs.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python benchmarks/presets.py runs/demo
"""

from __future__ import annotations

import sys

import numpy as np

from jobs.select import load_features
from minirec.artifacts import Run, read_table
from minirec.selection.learnability import chance_level, lift
from minirec.selection.pipeline import pick, score_samples
from minirec.settings import load

LABELS = ("learnable", "duplicate", "trivial", "noise")
STEPS = ["selection.lift=true", "selection.sigma=0.3"]
SETTINGS = {
    "preset paper": ["preset=paper"],
    "paper, rank fusion": ["preset=paper", "selection.fusion=rank"],
    "paper, gaussian_live": ["preset=paper", "selection.learnability=gaussian_live"],
    "lift, sigma 0.3, alpha 1": ["preset=paper", *STEPS],
    "lift, sigma 0.3, alpha 2": ["preset=paper", *STEPS, "selection.alpha=2"],
    "lift, sigma 0.3, alpha 8": ["preset=paper", *STEPS, "selection.alpha=8"],
    "paper with least lift 0.1": ["preset=paper", "selection.min_lift=0.1"],
    "preset minirec": ["preset=minirec"],
}


def silent(line: str) -> None:
    """Take a line and say nothing."""


def main(root: str, budget: float = 0.25) -> None:
    """Print the share of each planted label in the corpus and under each setting."""
    run = Run(root)
    features = load_features(run)
    chance = chance_level(read_table(run.path("corpus", "items.parquet")).num_rows)
    truth = read_table(run.path("corpus", "truth.parquet")).to_pydict()
    by_id = dict(zip(truth["sample_id"], truth["label"], strict=True))
    labels = np.array([by_id[i] for i in features.sample_id.tolist()])

    def shares(rows: np.ndarray) -> list[float]:
        return [float(np.mean(labels[rows] == label)) for label in LABELS]

    corpus = shares(np.arange(len(labels)))
    print(f"{root:28}" + "".join(f"{label:>11}" for label in LABELS) + "  noise / corpus")
    print(f"{'whole corpus':28}" + "".join(f"{s:11.1%}" for s in corpus))
    for name, overrides in SETTINGS.items():
        config = load(None, [*overrides, f"selection.budget={budget}"])
        settings = config.selection
        scores, pool = score_samples(features, settings, chance=chance, say=silent)
        picks = pick(features, scores["value"], pool, settings, seed=config.seed, say=silent)
        kept = shares(picks.indices)
        print(f"{name:28}" + "".join(f"{k:11.1%}" for k in kept) + f"{kept[-1] / corpus[-1]:11.2f}")
    gain = lift(features.need("mean_ndcg", by="the lift"), chance=chance)
    for label in LABELS:
        chosen = labels == label
        print(
            f"{label}: mean representativeness {scores['representativeness'][chosen].mean():.2f}, "
            f"median lift {np.median(gain[chosen]):.2f}"
        )


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["runs/demo"]:
        main(folder)
