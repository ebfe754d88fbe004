"""`minirec select`: from the features of a run to an ordered subset (method, sections 3 to 6)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.stages.gradients import gradient_inputs
from minirec.config.run import Config
from minirec.config.scoring import ScoringConfig
from minirec.config.selection import SelectionConfig
from minirec.corpus import schema
from minirec.errors import ArtifactError
from minirec.selection.diversity import MaxMin, maxmin
from minirec.selection.features import Features
from minirec.selection.learnability import chance_level
from minirec.selection.pipeline import (
    Diversity,
    Say,
    ordered,
    pick,
    score_samples,
    vectors_read,
    with_unscored,
)
from minirec.selection.readers import VECTORS
from minirec.selection.summary import summary
from minirec.selection.tables import read_features
from minirec.store.run import Cost, Run
from minirec.store.tables import read_array, read_table, write_table
from minirec.trials.checks import check

if TYPE_CHECKING:
    from jobs.cluster.session import Session


def select(run: Run, config: Config, session: Session | None = None) -> bool:
    """Write ``scores.parquet`` and ``selection.parquet``; returns False if skipped.

    The session is used only with ``selection.shards`` above 1.
    """

    def body(cost: Cost) -> None:
        _body(run, config, cost, _diversity(config.selection, session, run.say))

    return run.stage(
        "select",
        settings={
            "seed": config.seed,
            "selection": config.selection.model_dump(mode="json", exclude={"shards"}),
            "reward": config.reward.model_dump(mode="json"),
        },
        inputs=["prepare", "score", *gradient_inputs(config)],
        outputs=["scores.parquet", "selection.parquet"],
        body=body,
    )


def _diversity(settings: SelectionConfig, session: Session | None, say: Say) -> Diversity:
    """MaxMin in this process, or in actors that share the rows; the picks are the same."""
    if settings.shards == 1 or session is None:
        return maxmin
    from actors.scoring.maxmin import sharded_maxmin

    shards = session.room_for(settings.shards)
    if shards < settings.shards:
        say(f"select: {max(1, shards)} of {settings.shards} shards; other CPUs are not free")
    return partial(sharded_maxmin, shards=shards) if shards > 1 else maxmin


def _body(run: Run, config: Config, cost: Cost, diversity: Diversity) -> None:
    def say(line: str) -> None:
        run.say(f"select: {line}")

    train = _train_ids(run)
    check(config, len(train))
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
        say(f"{len(features):,} of {len(train):,} training samples are scored; of these:")
    for line in summary(features, scores, picks.indices, pool):
        say(line)
    if settings.method == "full":
        scores = with_unscored(scores, train)
        picks = MaxMin(np.arange(len(train)), np.full(len(train), np.nan))
    selection = ordered(scores, picks, settings, seed=config.seed)
    write_table(run.path("selection.parquet"), selection)
    cost.extra = {"samples": len(features), "pool": len(pool), "selected": selection.num_rows}
    _say_planted(run, train, selection["sample_id"].to_numpy())


def _train_ids(run: Run) -> NDArray[np.int64]:
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
    """All feature shards, sorted by sample_id and complete.

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
    ids, train = features.sample_id, _train_ids(run)
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


def _say_planted(run: Run, corpus: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
    truth = run.path("corpus", "truth.parquet")
    if truth.exists():
        for label, before, after in planted_shares(read_table(truth), corpus, chosen):
            run.say(
                f"select: planted {label}: {before:.1%} of the corpus, {after:.1%} of the selection"
            )


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
