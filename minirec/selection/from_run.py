"""Selection in a run directory: reads features, writes scores.parquet and selection.parquet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    arms_of,
    ordered,
    pick,
    score_samples,
    vectors_read,
    with_unscored,
)
from minirec.selection.readers import VECTORS
from minirec.selection.summary import summary
from minirec.selection.surrogate import counts_losses
from minirec.selection.tables import read_features
from minirec.store.run import Run
from minirec.store.tables import read_array, read_table, write_table


def select(run: Run, config: Config, *, diversity: Diversity) -> dict[str, int]:
    """Score the samples of a run, select and order some of them, and write both tables.

    Returns the numbers of scored samples, of samples in the pool, and of selected samples.

    Raises:
        ArtifactError: see `load_features`.
        ConfigError: the settings leave too few samples, or need features that were not scored.
    """

    def say(line: str) -> None:
        run.say(f"select: {line}")

    train = train_ids(run)
    # The budget is a share of the corpus, not of the scored samples.
    budget = config.selection.count(len(train))
    settings = config.selection.model_copy(update={"budget": budget})
    lora, vectors = settings.needs_lora_gradients, vectors_read(settings)
    features = load_features(run, config.scoring, lora=lora, vectors=vectors)
    if settings.method == "surrogate":
        losses = counts_losses(run.path("corpus"), features.sample_id, seed=config.seed)
        features = replace(features, surrogate_loss=losses)
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    chance = chance_level(items, cutoff=config.reward.cutoff)
    say(f"chance level {chance:.4g}, the NDCG of a policy that ranks at random")
    scores, pool = score_samples(features, settings, chance=chance, say=say)
    value, seed = scores["value"], config.seed
    picks = pick(features, value, pool, settings, seed=seed, say=say, diversity=diversity)
    write_table(run.path("scores.parquet"), pa.table(scores, schema=schema.SCORES))
    if len(features) < len(train):
        say(
            f"{len(features):,} of {len(train):,} training samples are scored; "
            f"the next lines describe them:"
        )
    for line in summary(features, scores, picks.indices, pool):
        say(line)
    learnability = zip(features.sample_id.tolist(), scores["learnability"].tolist(), strict=True)
    if line := apart(run, dict(learnability)):
        say(line)
    if settings.method == "full":
        scores = with_unscored(scores, train)
        picks = MaxMin(np.arange(len(train)), np.full(len(train), np.nan))
    arms = arms_of(features, settings, seed=seed)
    selection = ordered(scores, picks, settings, seed=seed, arms=arms)
    write_table(run.path("selection.parquet"), selection)
    _say_planted(run, train, selection["sample_id"].to_numpy())
    return {"samples": len(features), "pool": len(pool), "selected": selection.num_rows}


def select_unscored(run: Run, config: Config) -> dict[str, int]:
    """Choose and order samples without any score, and write both tables; scores are NaN.

    The method must be one of `minirec.trials.variants.UNSCORED`, in the order ``shuffled``. Returns
    the number of selected samples.
    """
    train = train_ids(run)
    count = len(train)
    settings = config.selection.model_copy(update={"budget": config.selection.count(count)})
    none = np.zeros(count, np.int64)
    features = Features(train, np.full(count, np.nan), none, none, none.astype(bool))
    rows = np.arange(count)
    picks = pick(features, features.mean_reward, rows, settings, seed=config.seed, say=run.say)
    unknown = {name: np.full(count, np.nan) for name in schema.SCORES.names}
    scores = unknown | {"sample_id": train}
    write_table(run.path("scores.parquet"), pa.table(scores, schema=schema.SCORES))
    selection = ordered(scores, picks, settings, seed=config.seed)
    write_table(run.path("selection.parquet"), selection)
    return {"selected": selection.num_rows}


def _say_planted(run: Run, corpus: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
    truth = run.path("corpus", "truth.parquet")
    if truth.exists():
        for label, before, after in planted_shares(read_table(truth), corpus, chosen):
            run.say(
                f"select: planted {label}: {before:.1%} of the corpus, {after:.1%} of the selection"
            )


def apart(run: Run, learnability: Mapping[int, float]) -> str:
    """A line with the mean learnability of the samples that the scoring policy was trained on, and
    that of the others; empty if there is only one kind.

    `learnability` is given by sample_id. The rewards of the first kind are those of a policy that
    knows the answers, so its values do not compare with those of the second.
    """
    found: dict[bool, list[float]] = {True: [], False: []}
    for part in sorted(run.path("features").glob("part-*.parquet")):
        table = read_table(part, ["sample_id", "in_sample"])
        both = zip(table["sample_id"].to_pylist(), table["in_sample"].to_pylist(), strict=True)
        for sample, seen in both:
            found[bool(seen)].append(learnability[sample])
    if not found[True] or not found[False]:
        return ""
    seen, unseen = (np.mean(found[kind]) for kind in (True, False))
    return (
        f"the scoring policy was trained on {len(found[True]):,} of the scored samples; mean "
        f"learnability {seen:.3f} of these, {unseen:.3f} of the {len(found[False]):,} others"
    )


def train_ids(run: Run) -> NDArray[np.int64]:
    """sample_ids of the train split, ascending."""
    path = run.path("corpus", "train.parquet")
    return np.sort(read_table(path, ["sample_id"])["sample_id"].to_numpy())


def load_features(
    run: Run,
    scoring: ScoringConfig,
    *,
    lora: bool = False,
    vectors: Collection[str] = VECTORS,
) -> Features:
    """The features of all shards, sorted by sample_id and checked for completeness.

    `vectors` are the vector columns to read; `lora` adds the projected LoRA gradients.

    Raises:
        ArtifactError: no shard, a bad value, a duplicate sample, a sample that is not in
            ``train.parquet``, another number of samples than the settings ask for, or no LoRA
            gradients.
    """
    folder = run.path("features")
    if not any(folder.glob("part-*.parquet")):
        raise ArtifactError(f"{folder} has no part files; run `minirec score` first")
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


def known_lifts(run: Run, config: Config) -> list[tuple[int, float, float]]:
    """What a scoring pass tells live selection: for each scored sample its sample_id, the lift of
    the forced answer, and the mean lift of its rollouts; NaN where unknown.

    Raises:
        ArtifactError: see `load_features`.
    """
    folder = run.path("features")
    load_features(run, config.scoring, vectors=())  # checks that all samples are there
    items = read_table(run.path("corpus", "items.parquet"), ["item_id"]).num_rows
    chance = chance_level(items, cutoff=config.reward.cutoff)
    found: list[tuple[int, float, float]] = []
    for part in sorted(folder.glob("part-*.parquet")):
        columns = read_table(part, ["sample_id", "screen_ndcg", "ndcg"]).to_pydict()
        forced = [np.nan if gain is None else gain for gain in columns["screen_ndcg"]]
        rolled = [np.mean(gains) if gains else np.nan for gains in columns["ndcg"]]
        if config.scores_forced:
            forced, rolled = rolled, forced  # the only answer of a sample is the forced one
        both = ((np.array(gains) - chance) / (1 - chance) for gains in (forced, rolled))
        found += zip(columns["sample_id"], *(lifts.tolist() for lifts in both), strict=True)
    return found


def _with_lora(run: Run, features: Features) -> Features:
    folder = run.path("gradients")
    parts, goal = sorted(folder.glob("part-*.parquet")), folder / "validation.npy"
    if not parts:
        raise ArtifactError(
            f"{folder} has no part files; run `minirec gradients` with the same settings"
        )
    table = pa.concat_tables([read_table(part) for part in parts]).sort_by("sample_id")
    ids = table["sample_id"].to_numpy()
    if not np.array_equal(ids, features.sample_id):
        raise ArtifactError(
            f"{folder} has {len(ids)} rows for {len(features)} samples, or rows of other samples; "
            f"run `minirec gradients --overwrite`"
        )
    flat = table["gradient"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    gradient = flat.reshape(len(ids), -1)
    validation = read_array(goal) if goal.exists() else None  # only the method `less` needs it
    for name, values in (("a part", gradient), (goal.name, validation)):
        if values is not None and not np.isfinite(values).all():
            raise ArtifactError(
                f"{folder}: {name} holds NaN or infinity; run `minirec gradients --overwrite`"
            )
    return replace(features, lora_gradient=gradient, validation_gradient=validation)


def planted_shares(
    truth: pa.Table, corpus: NDArray[np.int64], chosen: NDArray[np.int64]
) -> list[tuple[str, float, float]]:
    """Each planted label with its share of the corpus and of the selection."""
    label = dict(zip(truth["sample_id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    before, after = (
        np.array([label.get(i, "unlabelled") for i in ids.tolist()]) for ids in (corpus, chosen)
    )
    return [
        (str(name), float(np.mean(before == name)), float(np.mean(after == name)))
        for name in np.unique(before)
    ]
