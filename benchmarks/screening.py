"""What cheaper scoring saves and what it costs in agreement, from a finished run.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python benchmarks/screening.py runs/demo

Every setting scores the whole train split in this process with the run's proxy; seconds are those
of the shards, without loading. The values are compared with those of full scoring with the same
seed, which shares the rollouts that both made, with another seed, which shares none and is the
ceiling, and with a reference of 16 rollouts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

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
    """An engine in this process, asked as a pool is."""

    def __init__(self, kind: str, spec: Any):
        from actors.transformers_engine import TransformersEngine
        from actors.vllm_engine import VllmEngine

        self._engine = {"vllm": VllmEngine, "transformers": TransformersEngine}[kind](spec)

    def generate(self, calls: list[Any], adapter: Any = None) -> list[Any]:
        """As `PoolHandle.generate`."""
        return [
            self._engine.generate(c.prompts, n=c.n, seeds=c.seeds, greedy=c.greedy, adapter=adapter)
            for c in calls
        ]


def measure(run_dir: str | Path, *, repeats: int = 2) -> dict[str, dict[str, Any]]:
    """Figures of each setting, by its name.

    Args:
        run_dir: a run that has finished `score`; nothing in it is changed.
        repeats: how often each setting is scored; the least seconds count.

    Returns:
        ``seconds``, ``savings`` (`minirec.selection.screening.Savings`), and for each preset a dict
        with the rank correlation of the value (``full``, ``other``, ``reference``), ``overlap``
        with the selection of full scoring, and the shares of planted ``noise`` and ``learnable``
        samples in the selection.
    """
    root = Path(run_dir).absolute()
    with tempfile.TemporaryDirectory() as folder:
        scorer = _scorer(root, Path(folder))
        seeds = {OTHER: 1, REFERENCE: 1000}
        settings = {**SETTINGS, OTHER: {}, REFERENCE: {"rollouts": 16}}
        seconds: dict[str, list[float]] = {}
        for repeat in range(repeats):
            for name, changes in settings.items():
                if repeat and name in seeds:
                    continue
                spent = _score(scorer, Path(folder, name), changes, seeds.get(name, 0))
                seconds.setdefault(name, []).append(spent)
        found = {name: _judged(root, Path(folder), name, settings[name]) for name in settings}
        return {name: {"seconds": min(seconds[name]), **found[name]} for name in settings}


def _scorer(root: Path, folder: Path) -> Any:
    """A scorer for the train split, with its model and engine loaded and warm."""
    from actors.rollout import engine_environment, engine_spec, resolve_engine
    from minirec.settings import load

    config = load(root / "config.yaml")
    model = str(root / "model") if config.model.name == "demo" else config.model.name
    length = config.model.max_prompt_tokens + config.rollout.max_new_tokens + 8
    engine = engine_spec(config, model, length)
    os.environ.update(engine_environment(engine))
    from actors.scoring import ScoringSpec, ShardScorer
    from actors.training import adapter_at

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
        shard_size=config.scoring.shard_size,
        prompts_per_call=config.rollout.prompts_per_call,
        seed=config.seed,
        pool=Engine(resolve_engine(config.rollout), engine),  # type: ignore[arg-type]
        policy_adapter=adapter_at(adapter),
        threads=1,
    )
    scorer = ShardScorer(spec)
    scorer.write(0)
    return scorer


def _score(scorer: Any, folder: Path, changes: dict[str, Any], seed: int) -> float:
    """Score every shard into ``folder/features``; returns the seconds."""
    from minirec.config import ScoringConfig

    before, features = scorer.spec, folder / "features"
    corpus = folder / "corpus"
    features.mkdir(parents=True, exist_ok=True)
    if not corpus.exists():
        corpus.symlink_to(before.corpus)
    scoring = ScoringConfig(**changes, shard_size=before.shard_size)
    scorer.spec = replace(before, output=str(features), scoring=scoring, seed=before.seed + seed)
    started = time.perf_counter()
    for start in range(0, len(scorer.samples), before.shard_size):
        scorer.write(start // before.shard_size)
    seconds = time.perf_counter() - started
    scorer.spec = before
    return seconds


def _judged(root: Path, folder: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Savings of a setting, and its value and selection under each preset, against the others."""
    import pyarrow as pa

    from minirec.artifacts import read_table
    from minirec.config import ScoringConfig
    from minirec.selection.learnability import chance_level
    from minirec.selection.screening import COLUMNS, savings
    from minirec.settings import load

    parts = sorted((folder / name / "features").glob("part-*.parquet"))
    table = pa.concat_tables([read_table(part).select(COLUMNS) for part in parts])
    items = read_table(root / "corpus" / "items.parquet").num_rows
    cutoff, scoring = load(root / "config.yaml").reward.cutoff, ScoringConfig(**changes)
    result: dict[str, Any] = {
        "savings": savings(
            table.to_pydict(),
            most=4,
            chance=chance_level(items, cutoff=cutoff),
            band=scoring.screen_band,
        )
    }
    labels = _labels(root)
    for preset in PRESETS:
        ids, value, chosen = _selected(folder / name, items, preset)
        others = {key: _selected(folder / key, items, preset) for key in (FULL, OTHER, REFERENCE)}
        label = np.array([labels.get(i) for i in ids[chosen].tolist()])
        result[preset] = {
            "full": float(spearmanr(value, others[FULL][1]).statistic),
            "other": float(spearmanr(value, others[OTHER][1]).statistic),
            "reference": float(spearmanr(value, others[REFERENCE][1]).statistic),
            "overlap": len(np.intersect1d(chosen, others[FULL][2])) / len(chosen),
            **{key: float(np.mean(label == key)) for key in ("noise", "learnable")},
        }
    return result


def _selected(root: Path, items: int, preset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, values, and rows of the quarter of the samples that is selected."""
    from jobs.select import load_features, pick, score_samples
    from minirec.artifacts import Run
    from minirec.settings import load

    config = load(None, [f"preset={preset}", "selection.budget=0.25"])
    features = load_features(Run(root))
    scores, pool = score_samples(features, items, config, say=lambda text: None)
    picks = pick(features, scores["value"], pool, config.selection)
    return scores["sample_id"], scores["value"], picks.indices


def _labels(root: Path) -> dict[int, str]:
    """Planted label by sample_id; empty for a corpus without planted truth."""
    from minirec.artifacts import read_table

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
