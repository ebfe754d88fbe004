"""How far words alone go: NDCG@10 of ranking items by the likeness of their titles to a history.

.venv/bin/python benchmarks/titles.py RUN [RUN ...]

RUN holds a prepared corpus (`minirec prepare ... run_dir=RUN`). Titles are TF-IDF vectors; a
history is their sum, each weighted with 1 / (1 + age); items are ranked by the product with it, the
history masked. It learns nothing from users.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from minirec.corpus.table import load_catalogue, load_samples
from minirec.evaluation.ranking import metrics
from minirec.rl.reward import history_mask, rank_target

BLOCK = 256


def quality(run: Path, split: str) -> float:
    """NDCG@10 of a split."""
    catalogue = load_catalogue(run / "corpus")
    titles = TfidfVectorizer(sublinear_tf=True).fit_transform(catalogue.titles)
    samples = load_samples(run / "corpus", split)
    ranks = []
    for start in range(0, len(samples), BLOCK):
        block = samples[start : start + BLOCK]
        profiles = np.zeros((len(block), titles.shape[1]))
        for row, sample in enumerate(block):
            weights = 1 / np.arange(len(sample.history), 0, -1)
            profiles[row] = weights @ titles[sample.history]
        scores = torch.from_numpy(profiles @ titles.T)
        target = torch.tensor([s.target for s in block])
        mask = history_mask([s.history for s in block], target, items=titles.shape[0])
        ranks.append(rank_target(scores, target=target, mask=mask).rank)
    return metrics(torch.cat(ranks).numpy().astype(np.int64))["ndcg@10"]


def main(*runs: str) -> None:
    """Print a line for each run."""
    for run in runs:
        figures = ", ".join(f"{s} {quality(Path(run), s):.4f}" for s in ("valid", "test"))
        print(f"{run}: {figures}")


if __name__ == "__main__":
    main(*sys.argv[1:])
