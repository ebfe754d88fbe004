"""Diagnostics of a comparison: shared selections, and whether scores predict utility."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.trials.result import Ids, ranked, selected
from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.errors import ConfigError, FeatureError
from minirec.evaluation.diagnostics import (
    LEAST_RUNS,
    Correlation,
    Overlaps,
    datamodel_score,
    overlaps,
)
from minirec.evaluation.ranking import per_sample
from minirec.selection.from_run import load_features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import score_samples
from minirec.store.run import Run
from minirec.store.tables import read_table
from minirec.trials.trial import PRESETS, WHOLE, Trial, selection_of

SHOWN = ("popularity", "cooccurrence", "shortcut")
"""References that each trial has ranked and that the plot of the variants shows."""
SCORES = ("learnability", "representativeness", "value")


def shared_by_budget(run: Run, trials: Sequence[Trial]) -> list[tuple[int, Overlaps]]:
    """The overlaps of the methods at each number of samples. Both tables select the same."""
    chosen: dict[int, dict[str, dict[int, Ids]]] = {}
    for trial in trials:
        if trial.variant is None and trial.method not in WHOLE:
            ids = selected(run, trial)
            by_seed = chosen.setdefault(len(ids), {}).setdefault(trial.method, {})
            by_seed[trial.config.seed] = ids
    return [(samples, overlaps(chosen[samples])) for samples in sorted(chosen)]


def utility(
    run: Run, config: Config, trials: Sequence[Trial]
) -> list[tuple[str, int, Correlation]]:
    """How well each score of both presets predicts the quality of random selections.

    Quality is the mean NDCG@10 over valid and test, because nothing is chosen by it.
    """
    groups: dict[tuple[str, int], list[tuple[Ids, float]]] = {}
    for trial in trials:
        if trial.method == "random":
            ids = selected(run, trial)
            both = np.concatenate([ranked(run, trial, split)[1] for split in ("valid", "test")])
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


def reference_levels(run: Run, trials: Sequence[Trial]) -> dict[str, float]:
    """NDCG@10 of `SHOWN` references on the samples of valid that all `trials` are validated on."""
    from actors.training.validation import drawn  # loads torch

    if not trials:
        return {}
    first = trials[0]
    t = first.config.training
    assert t.validation_seed is not None
    ndcg = {name: ranked(run, first, "valid", policy=name)[1] for name in SHOWN}
    if (path := run.path("sasrec", "ranks.parquet")).exists():
        table = read_table(path).to_pandas()
        ndcg["sasrec"] = per_sample(table["rank"][table["split"] == "valid"].to_numpy())["ndcg@10"]
    there = {name: values for name, values in ndcg.items() if len(values)}
    return {
        name: float(
            values[drawn(len(values), count=t.validation_samples, seed=t.validation_seed)].mean()
        )
        for name, values in there.items()
    }


def _scores(run: Run, config: Config) -> tuple[Ids, dict[str, NDArray[np.float64]]]:
    """Ascending sample_ids, and the scores of both presets by name."""
    lora = any(run.path("gradients").glob("part-*.parquet"))
    features = load_features(run, config.scoring, lora=lora)
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    chance = chance_level(items, cutoff=config.reward.cutoff)
    scores = {"mean reward": features.mean_reward}
    for preset in PRESETS:
        settings = changed(config, selection_of(preset)).selection
        try:
            # `select` has already printed these lines.
            columns, _ = score_samples(features, settings, chance=chance, say=lambda line: None)
        except (ConfigError, FeatureError) as error:
            run.say(f"compare: the page shows no scores of {preset}: {error}")
            continue
        scores |= {f"{name} of {preset}": columns[name] for name in SCORES}
    return features.sample_id, scores
