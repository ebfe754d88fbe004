"""Savings and agreement of cheaper scoring, from a finished run.

.venv/bin/minirec run --config configs/demo.yaml selection.mode=static
.venv/bin/python benchmarks/screening.py runs/demo

Every setting scores the whole train split in this process, on one thread, with the run's proxy.
Seconds are processor seconds of the shards, without loading. The values are compared with full
scoring with the same seed (shared rollouts), with full scoring with another seed (no shared
rollouts, the upper limit), and with a reference of 16 rollouts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from presets import silent
from scipy.stats import spearmanr

from actors.engines.engine import (
    engine_environment,
    engine_spec,
    most_prompts_per_call,
    resolve_engine,
)
from minirec.config.reading import load
from minirec.config.scoring import ScoringConfig
from minirec.resources.allocation import Shape
from minirec.selection.from_run import load_features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import pick, score_samples
from minirec.selection.screening import COLUMNS, Savings, savings
from minirec.store.run import Run
from minirec.store.tables import read_table

PRESETS = ("minirec", "paper")
FULL, OTHER, REFERENCE = "full, 4 rollouts", "full, other seed", "reference, 16 rollouts"
SETTINGS: dict[str, dict[str, Any]] = {
    FULL: {},
    "rollouts 2": {"rollouts": 2},
    "[2, 4], doubt 0.02": {"rollouts": (2, 4), "doubt": 0.02},
    "[2, 4], doubt 0.1": {"rollouts": (2, 4)},
    "[2, 4], doubt 0.3": {"rollouts": (2, 4), "doubt": 0.3},
    "screen -0.02": {"screen": "prefill", "screen_band": (-0.02, 1)},
    "screen 0.05": {"screen": "prefill"},
    "screen 0.1": {"screen": "prefill", "screen_band": (0.1, 1)},
    "screen 0.05 to 0.7": {"screen": "prefill", "screen_band": (0.05, 0.7)},
    "screen 0.05, [2, 4]": {"screen": "prefill", "rollouts": (2, 4)},
    "screen 0.1, [2, 4]": {"screen": "prefill", "screen_band": (0.1, 1), "rollouts": (2, 4)},
    "screen 0.1, rollouts 2": {"screen": "prefill", "screen_band": (0.1, 1), "rollouts": 2},
}


class Engine:
    """An engine in this process with the interface of a pool."""

    def __init__(self, kind: str, spec: Any):
        from actors.engines.transformers import TransformersEngine
        from actors.engines.vllm import VllmEngine

        self._engine = {"vllm": VllmEngine, "transformers": TransformersEngine}[kind](spec)

    def generate(self, calls: list[Any], adapter: Any = None) -> list[Any]:
        """Like `PoolHandle.generate`."""
        return [
            self._engine.generate(c.prompts, n=c.n, seeds=c.seeds, greedy=c.greedy, adapter=adapter)
            for c in calls
        ]


def measure(
    run_dir: str | Path,
    *,
    scorings: dict[str, dict[str, Any]] = SETTINGS,
    repeats: int = 2,
    shard_size: int = 256,
) -> dict[str, dict[str, Any]]:
    """Figures of each setting, by its name.

    Args:
        run_dir: a run that has finished `score`; it is not changed.
        scorings: settings of ``scoring`` by name; `FULL` must be among them.
        repeats: how often each setting is scored; the minimum of the processor seconds counts.
        shard_size: samples in a shard. The few that are left for the second stage fill no call in
            a small shard, and the tiny model's calls take nearly the same time empty or full.

    Returns:
        ``seconds``, ``savings`` (`minirec.selection.screening.Savings`), and for each preset a dict
        with the rank correlation of the value (``full``, ``other``, ``reference``), ``overlap``
        with the selection of full scoring, and the shares of planted ``noise`` and ``learnable``
        samples in the selection.
    """
    root = Path(run_dir).absolute()
    with tempfile.TemporaryDirectory() as folder:
        scorer = _scorer(root, Path(folder), shard_size)
        seeds = {OTHER: 1, REFERENCE: 1000}
        settings = {**scorings, OTHER: {}, REFERENCE: {"rollouts": 16}}
        seconds: dict[str, list[float]] = {}
        for repeat in range(repeats):
            for name, changes in settings.items():
                if repeat and name in seeds:
                    continue
                spent = _score(scorer, Path(folder, name), changes, seeds.get(name, 0))
                seconds.setdefault(name, []).append(spent)
        saved = {name: _saved(root, Path(folder, name), settings[name]) for name in settings}
        agreement = {preset: _agreement(root, Path(folder), preset, settings) for preset in PRESETS}
    return {
        name: {
            "seconds": min(seconds[name]),
            "savings": saved[name],
            **{preset: agreement[preset][name] for preset in PRESETS},
        }
        for name in settings
    }


def _scorer(root: Path, folder: Path, shard_size: int) -> Any:
    """A scorer for the train split, with its model and engine loaded and warm.

    torch and vLLM are imported here, after the variables that they read.
    """
    config = load(root / "config.yaml")
    model = str(root / "model") if config.model.name == "demo" else config.model.name
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
    engine = engine_spec(config, model, length, shape=Shape(cpus=1, gpus=0))
    os.environ.update(engine_environment(engine))
    from actors.engines.engine import Adapter
    from actors.scoring.scorer import ShardScorer
    from actors.scoring.spec import ScoringSpec

    adapter = root / "proxy" / "adapter"
    spec = ScoringSpec(
        corpus=str(root / "corpus"),
        split="train",
        output=str(folder / "warm-up"),
        item_table=str(folder / "items.npy"),
        model_path=model,
        model=config.model,
        reward=config.reward,
        adapter=str(adapter),
        scoring=config.scoring,
        shard_size=shard_size,
        prompts_per_call=most_prompts_per_call(config),
        seed=config.seed,
        pool=Engine(resolve_engine(config), engine),  # type: ignore[arg-type]
        policy_adapter=Adapter(str(adapter)),
        threads=1,
    )
    scorer = ShardScorer(spec)
    scorer.write(0)
    return scorer


def _score(scorer: Any, folder: Path, changes: dict[str, Any], seed: int) -> float:
    """Score every shard into ``folder/features``; returns the seconds."""
    before, features = scorer.spec, folder / "features"
    corpus = folder / "corpus"
    features.mkdir(parents=True, exist_ok=True)
    if not corpus.exists():
        corpus.symlink_to(before.corpus)
    scoring = ScoringConfig(**changes, shard_size=before.shard_size)
    scorer.spec = replace(before, output=str(features), scoring=scoring, seed=before.seed + seed)
    started = time.process_time()
    for start in range(0, len(scorer.samples), before.shard_size):
        scorer.write(start // before.shard_size)
    seconds = time.process_time() - started
    scorer.spec = before
    return seconds


def _saved(root: Path, folder: Path, changes: dict[str, Any]) -> Savings:
    """The savings of a setting."""
    scoring = ScoringConfig(**changes)
    parts = sorted((folder / "features").glob("part-*.parquet"))
    table = pa.concat_tables([read_table(part).select(COLUMNS) for part in parts])
    items = read_table(root / "corpus" / "items.parquet").num_rows
    chance = chance_level(items, cutoff=load(root / "config.yaml").reward.cutoff)
    return savings([table.to_pydict()], most=4, chance=chance, band=scoring.screen_band)


def _agreement(
    root: Path, folder: Path, preset: str, names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Value and selection of each setting with a preset, compared with full scoring."""
    items = read_table(root / "corpus" / "items.parquet").num_rows
    found = {name: _selected(folder / name, items, preset) for name in names}
    labels = _labels(root)
    result = {}
    for name, (ids, value, chosen) in found.items():
        label = np.array([labels.get(i) for i in ids[chosen].tolist()])
        against = {"full": FULL, "other": OTHER, "reference": REFERENCE}
        result[name] = {
            **{k: float(spearmanr(value, found[v][1]).statistic) for k, v in against.items()},
            "overlap": len(np.intersect1d(chosen, found[FULL][2])) / len(chosen),
            **{key: float(np.mean(label == key)) for key in ("noise", "learnable")},
        }
    return result


def _selected(root: Path, items: int, preset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, values, and rows of the quarter of the samples that is selected."""
    config = load(None, [f"preset={preset}", "selection.budget=0.25"])
    features, settings = load_features(Run(root), config.scoring), config.selection
    chance = chance_level(items, cutoff=config.reward.cutoff)
    scores, pool = score_samples(features, settings, chance=chance, say=silent)
    picks = pick(features, scores["value"], pool, settings, seed=config.seed, say=silent)
    return scores["sample_id"], scores["value"], picks.indices


def _labels(root: Path) -> dict[int, str]:
    """Planted label by sample_id; empty for a corpus without planted truth."""
    path = root / "corpus" / "truth.parquet"
    truth = read_table(path).to_pydict() if path.exists() else {"sample_id": [], "label": []}
    return dict(zip(truth["sample_id"], truth["label"], strict=True))


def main(root: str) -> None:
    """Print a table for each preset."""
    found = measure(root)
    full = found[FULL]["seconds"]
    for name, figures in found.items():
        print(f"{name:24}{figures['seconds']:7.1f} s  {figures['savings'].sentence()}")
    heads = ("screened", "rollouts", "seconds", "full", "other", "16", "overlap", "noise", "learn.")
    for preset in PRESETS:
        print(f"\n{root}, preset {preset:12}" + "".join(f"{head:>10}" for head in heads))
        for name, figures in found.items():
            s, p = figures["savings"], figures[preset]
            shares = [s.screened / s.samples, s.rollouts / s.full, figures["seconds"] / full]
            shares += [p[key] for key in ("full", "other", "reference", "overlap")]
            shares += [p["noise"], p["learnable"]]
            print(f"{name:34}" + "".join(f"{share:10.3f}" for share in shares))


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["runs/demo"]:
        main(folder)
