"""The selections of several settings, from the features of finished runs.

.venv/bin/minirec run --config configs/demo.yaml selection.mode=static
.venv/bin/python benchmarks/presets.py runs/demo

Dead: share of the selection without a rollout above chance. Stable: overlap of the selections made
from either half of the rollouts, with different seeds. Noise: share of planted noise in the
selection divided by its share of the corpus (demo corpus only).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from minirec.config.reading import load
from minirec.config.scoring import ScoringConfig
from minirec.selection.features import Features
from minirec.selection.from_run import load_features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import pick, score_samples
from minirec.selection.tables import read_features
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table

LIFT = ["preset=paper", "selection.lift=true", "selection.sigma=0.3"]
SETTINGS = {
    "random": ["selection.method=random"],
    "random_live": ["selection.method=random_live"],
    "top_reward": ["selection.method=top_reward"],
    "hit_variance alone": ["selection.method=hit_variance"],
    "preset paper": ["preset=paper"],
    "paper, fusion rank": ["preset=paper", "selection.fusion=rank"],
    "paper, gaussian_live": ["preset=paper", "selection.learnability=gaussian_live"],
    "paper, hit_variance": ["preset=paper", "selection.learnability=hit_variance"],
    "paper, head_gradient": ["preset=paper", "selection.directions=head_gradient"],
    "lift, sigma 0.3, alpha 1": LIFT,
    "lift, sigma 0.3, alpha 2": [*LIFT, "selection.alpha=2"],
    "lift, sigma 0.3, alpha 8": [*LIFT, "selection.alpha=8"],
    "paper, min_lift 0.1": ["preset=paper", "selection.min_lift=0.1"],
    "preset minirec": ["preset=minirec"],
    "minirec, fusion rank": ["selection.fusion=rank"],
    "minirec, hit_variance": ["selection.learnability=hit_variance"],
    "minirec, head_gradient": ["selection.directions=head_gradient"],
}


def silent(line: str) -> None:
    """Ignore a line."""


def chosen(features: Features, overrides: list[str], *, budget: float, chance: float) -> NDArray:
    """Rows that a setting selects."""
    config = load(None, [*overrides, f"selection.budget={budget}"])
    settings = config.selection
    scores, pool = score_samples(features, settings, chance=chance, say=silent)
    picks = pick(features, scores["value"], pool, settings, seed=config.seed, say=silent)
    return picks.indices


def half(run: Run, part: slice, chance: float) -> Features:
    """The features with some of the rollouts; hits are counted again."""
    shards = sorted(run.path("features").glob("part-*.parquet"))
    table = pa.concat_tables([read_table(path) for path in shards]).drop_columns("hits")
    for name in ("rewards", "ndcg"):
        lists = [values[part] for values in table[name].to_pylist()]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(lists))
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "half.parquet", table)
        return read_features(Path(folder) / "half.parquet", chance=chance)


def main(root: str) -> None:
    """Print a line for each setting."""
    run = Run(root)
    config = yaml.safe_load(run.path("config.yaml").read_text())
    features = load_features(run, ScoringConfig.model_validate(config["scoring"]))
    budget = config["selection"]["budget"]
    items = read_table(run.path("corpus", "items.parquet")).num_rows
    chance = chance_level(items, cutoff=config["reward"]["cutoff"])
    halves = [half(run, part, chance) for part in (slice(0, 2), slice(2, 4))]
    truth = run.path("corpus", "truth.parquet")
    label = np.full(len(features), "")
    if truth.exists():
        labels = dict(zip(*read_table(truth).to_pydict().values(), strict=True))
        label = np.array([labels[i] for i in features.sample_id.tolist()])
    noise = np.where(label == "", np.nan, label == "noise")
    dead = features.hits == 0
    print(f"{root}: {len(features):,} samples, {dead.mean():.0%} dead, budget {budget}")
    print(f"{'setting':28}{'dead':>8}{'stable':>8}{'noise':>8}")
    for name, overrides in SETTINGS.items():
        rows = chosen(features, overrides, budget=budget, chance=chance)
        one, other = (
            chosen(half, [*overrides, f"seed={seed}"], budget=budget, chance=chance)
            for seed, half in enumerate(halves)
        )
        stable = len(np.intersect1d(one, other)) / len(one)
        ratio = noise[rows].mean() / noise.mean()
        print(f"{name:28}{dead[rows].mean():8.1%}{stable:8.1%}{ratio:8.2f}")
    scores, _ = score_samples(features, load().selection, chance=chance, say=silent)
    for kind in np.unique(label[label != ""]):
        mean = scores["representativeness"][label == kind].mean()
        print(f"mean representativeness of {kind}: {mean:.2f}")


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["runs/demo"]:
        main(folder)
