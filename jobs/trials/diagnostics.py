"""What explains a comparison: gains on train, shared selections, scores against utility."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.run import SHARED
from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.errors import ConfigError, FeatureError
from minirec.evaluation.diagnostics import LEAST_RUNS, Foretold, Overlaps, datamodel_score, overlaps
from minirec.evaluation.ranking import per_sample
from minirec.selection.from_run import load_features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import score_samples
from minirec.store.run import Run
from minirec.store.tables import read_table
from minirec.trials.comparison import PRESETS, Contender, selection_of

SCORES = ("learnability", "representativeness", "value")
Ids = NDArray[np.int64]


def own(run: Run, trial: Contender) -> Run:
    """The run of a trial."""
    return Run(trial.config.run_dir, base=run, shared=SHARED)


def selected(run: Run, trial: Contender) -> Ids:
    """sample_ids that a trial trained on."""
    table = read_table(own(run, trial).path("selection.parquet"), ["sample_id"])
    return table["sample_id"].to_numpy()


def ndcg(run: Run, trial: Contender, split: str, *, policy: str = "trained") -> NDArray[np.float64]:
    """(N,) NDCG@10 of a policy on a split, in the order of its file."""
    return _ranked(run, trial, split, policy)[1]


def _ranked(run: Run, trial: Contender, split: str, policy: str) -> tuple[Ids, NDArray[np.float64]]:
    ranks = read_table(own(run, trial).path("ranks.parquet")).to_pandas()
    mine = ranks[(ranks["policy"] == policy) & (ranks["split"] == split)]
    return mine["sample_id"].to_numpy(), per_sample(mine["rank"].to_numpy())["ndcg@10"]


def gains(run: Run, trial: Contender) -> tuple[float | None, float | None]:
    """Mean NDCG@10 of the trained minus the base policy on samples of train, kept and dropped.

    None where there is no such sample.
    """
    if trial.config.evaluation.train_samples is None:
        return None, None
    ids, after = _ranked(run, trial, "train", "trained")
    gain = after - ndcg(run, trial, "train", policy="base")
    kept = np.isin(ids, selected(run, trial))
    found = [float(gain[part].mean()) if part.any() else None for part in (kept, ~kept)]
    return found[0], found[1]


def shared_by_budget(run: Run, trials: Sequence[Contender]) -> list[tuple[int, Overlaps]]:
    """What the methods share at each number of samples; tables select alike, so one counts."""
    chosen: dict[int, dict[str, dict[int, Ids]]] = {}
    for trial in trials:
        if trial.budget is not None:
            ids = selected(run, trial)
            by_seed = chosen.setdefault(len(ids), {}).setdefault(trial.method, {})
            by_seed[trial.config.seed] = ids
    return [(samples, overlaps(chosen[samples])) for samples in sorted(chosen)]


def utility(
    run: Run, config: Config, trials: Sequence[Contender]
) -> list[tuple[str, int, Foretold]]:
    """How well each score of both presets foretells what random selections of one size gave.

    Quality is the mean NDCG@10 over valid and test: nothing is chosen by it.
    """
    groups: dict[tuple[str, int], list[tuple[Ids, float]]] = {}
    for trial in trials:
        if trial.method == "random":
            ids = selected(run, trial)
            both = np.concatenate([ndcg(run, trial, split) for split in ("valid", "test")])
            groups.setdefault((trial.table, len(ids)), []).append((ids, float(both.mean())))
    enough = {key: runs for key, runs in groups.items() if len(runs) >= LEAST_RUNS}
    if not enough:
        return []
    sample_id, scores = _scores(run, config)
    found = []
    for (table, samples), runs in enough.items():
        rows = [np.searchsorted(sample_id, ids) for ids, _ in runs]
        for name, score in scores.items():
            one = datamodel_score(
                score,
                rows,
                [quality for _, quality in runs],
                resamples=config.evaluation.bootstrap,
                seed=config.seed,
            )
            if one is not None:
                found.append((f"{name}, equal {table}", samples, one))
    return found


def _scores(run: Run, config: Config) -> tuple[Ids, dict[str, NDArray[np.float64]]]:
    """sample_ids in rising order, and the scores of both presets by name."""
    lora = any(run.path("gradients").glob("part-*.parquet"))
    features = load_features(run, config.scoring, lora=lora)
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    chance = chance_level(items, cutoff=config.reward.cutoff)
    scores = {"mean reward": features.mean_reward}
    for preset in PRESETS:
        settings = changed(config, selection_of(preset)).selection
        try:
            columns, _ = score_samples(features, settings, chance=chance, say=_unsaid)
        except (ConfigError, FeatureError) as error:
            run.say(f"compare: no scores of {preset} to judge: {error}")
            continue
        scores |= {f"{name} of {preset}": columns[name] for name in SCORES}
    return features.sample_id, scores


def _unsaid(line: str) -> None:
    """The stage `select` has said it."""
