"""Selection from a run directory: features in, scores.parquet and selection.parquet out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.config.run import Config
from minirec.config.scoring import ScoringConfig
from minirec.corpus import schema
from minirec.errors import ArtifactError
from minirec.selection.diversity import MaxMin
from minirec.selection.features import Features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import (
    Diversity,
    ordered,
    pick,
    score_samples,
    vectors_read,
    with_unscored,
)
from minirec.selection.readers import VECTORS
from minirec.selection.summary import summary
from minirec.selection.tables import read_features
from minirec.store.run import Run
from minirec.store.tables import read_array, read_table, write_table


def select(run: Run, config: Config, *, diversity: Diversity) -> dict[str, int]:
    """Score the samples of a run, choose and order some, and write both tables.

    Returns:
        The numbers of scored samples, of samples in the pool, and of selected samples.

    Raises:
        ArtifactError: see `load_features`.
        ConfigError: the settings leave too few samples, or need what was not scored.
    """

    def say(line: str) -> None:
        run.say(f"select: {line}")

    train = train_ids(run)
    # The budget is a share of the corpus, not of what is scored of it.
    budget = config.selection.count(len(train))
    settings = config.selection.model_copy(update={"budget": budget})
    features = load_features(
        run,
        config.scoring,
        lora=settings.needs_lora_gradients,
        vectors=vectors_read(settings),
    )
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    chance = chance_level(items, cutoff=config.reward.cutoff)
    say(f"chance level {chance!r}, the NDCG of a policy that knows nothing")
    scores, pool = score_samples(features, settings, chance=chance, say=say)
    picks = pick(
        features,
        scores["value"],
        pool,
        settings,
        seed=config.seed,
        say=say,
        diversity=diversity,
    )
    write_table(run.path("scores.parquet"), pa.table(scores, schema=schema.SCORES))
    if len(features) < len(train):
        say(f"{len(features):,} of {len(train):,} training samples are scored, shown below:")
    for line in summary(features, scores, picks.indices, pool):
        say(line)
    if settings.method == "full":
        scores = with_unscored(scores, train)
        picks = MaxMin(np.arange(len(train)), np.full(len(train), np.nan))
    selection = ordered(scores, picks, settings, seed=config.seed)
    write_table(run.path("selection.parquet"), selection)
    _say_planted(run, train, selection["sample_id"].to_numpy())
    return {"samples": len(features), "pool": len(pool), "selected": selection.num_rows}


def _say_planted(run: Run, corpus: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
    """Say which planted samples of the demo corpus were chosen."""
    truth = run.path("corpus", "truth.parquet")
    if truth.exists():
        for label, before, after in planted_shares(read_table(truth), corpus, chosen):
            run.say(
                f"select: planted {label}: {before:.1%} of the corpus, {after:.1%} of the selection"
            )


def train_ids(run: Run) -> NDArray[np.int64]:
    """sample_ids of the train split, rising."""
    path = run.path("corpus", "train.parquet")
    return np.sort(read_table(path, ["sample_id"])["sample_id"].to_numpy())


def load_features(
    run: Run,
    scoring: ScoringConfig,
    *,
    lora: bool = False,
    vectors: Collection[str] = VECTORS,
) -> Features:
    """The features of all shards, sorted by sample_id and checked to be complete.

    Args:
        run: a run whose samples are scored.
        scoring: its settings.
        lora: read the projected LoRA gradients too.
        vectors: columns of vectors that are read from the features.

    Raises:
        ArtifactError: no shard, a bad value, a sample twice, other samples than in
            ``train.parquet``, more or fewer than the settings have scored, or no LoRA gradients.
    """
    folder = run.path("features")
    if not any(folder.glob("part-*.parquet")):
        raise ArtifactError(f"{folder} holds no part; run `minirec score` first")
    features = read_features(folder, vectors=vectors)
    ids, train = features.sample_id, train_ids(run)
    wanted = scoring.count(len(train))
    odd = np.setdiff1d(ids, train)
    if len(ids) != wanted or len(odd):
        unknown = f", {len(odd)} of them unknown, first sample {odd[0]}" if len(odd) else ""
        raise ArtifactError(
            f"{folder} has {len(ids)} samples{unknown}; expected {wanted} of the {len(train)} in "
            f"train.parquet; run `minirec score --overwrite`"
        )
    return _with_lora(run, features) if lora else features


def _with_lora(run: Run, features: Features) -> Features:
    """The features with the projected LoRA gradients of the run."""
    folder = run.path("gradients")
    parts, goal = sorted(folder.glob("part-*.parquet")), folder / "validation.npy"
    if not parts:
        raise ArtifactError(
            f"{folder} holds no part; run `minirec gradients` with the same settings"
        )
    table = pa.concat_tables([read_table(part) for part in parts]).sort_by("sample_id")
    ids = table["sample_id"].to_numpy()
    if not np.array_equal(ids, features.sample_id):
        raise ArtifactError(
            f"{folder} has {len(ids)} rows for {len(features)} samples, or other samples; "
            f"run `minirec gradients --overwrite`"
        )
    flat = table["gradient"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    gradient = flat.reshape(len(ids), -1)
    validation = read_array(goal) if goal.exists() else None  # only `less` needs it
    for name, values in (("a part", gradient), (goal.name, validation)):
        if values is not None and not np.isfinite(values).all():
            raise ArtifactError(f"{folder}: {name} holds NaN or infinity; score again")
    return replace(features, lora_gradient=gradient, validation_gradient=validation)


def planted_shares(
    truth: pa.Table, corpus: NDArray[np.int64], chosen: NDArray[np.int64]
) -> list[tuple[str, float, float]]:
    """Each planted label with its share of the corpus and of the selection."""
    label = dict(zip(truth["sample_id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    before = np.array([label.get(i, "unlabelled") for i in corpus.tolist()])
    after = np.array([label.get(i, "unlabelled") for i in chosen.tolist()])
    return [
        (str(name), float(np.mean(before == name)), float(np.mean(after == name)))
        for name in np.unique(before)
    ]
