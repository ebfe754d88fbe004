"""`minirec select`: from features to an ordered subset (method, sections 3 to 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.gradients import gradient_inputs
from minirec.artifacts import Cost, Run, read_table, write_table
from minirec.config import Config, SelectionConfig
from minirec.corpus import schema
from minirec.errors import ArtifactError, ConfigError
from minirec.selection import learnability
from minirec.selection.curriculum import CURRICULA, group_numbers
from minirec.selection.diversity import MaxMin, maxmin
from minirec.selection.representativeness import alignment
from minirec.selection.value import combine


@dataclass(frozen=True)
class Features:
    """What scoring knows of each sample, by ascending sample_id; all have N rows."""

    sample_id: NDArray[np.int64]
    rewards: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    embedding: NDArray[np.float16]
    hvp: NDArray[np.float32]


def select(run: Run, config: Config) -> bool:
    """Write ``scores.parquet`` and ``selection.parquet``; returns False if skipped."""
    return run.stage(
        "select",
        settings={
            "seed": config.seed,
            "selection": config.selection.model_dump(mode="json"),
            "reward": config.reward.model_dump(mode="json"),
        },
        inputs=["prepare", "score", *gradient_inputs(config)],
        outputs=["scores.parquet", "selection.parquet"],
        body=lambda cost: _body(run, config, cost),
    )


def _body(run: Run, config: Config, cost: Cost) -> None:
    features = load_features(run)
    items = pq.read_metadata(run.path("corpus", "items.parquet")).num_rows
    settings = config.selection
    scores, pool = score_samples(features, items, config, say=run.say)
    picks = pick(features, scores["value"], pool, settings)
    write_table(run.path("scores.parquet"), pa.table(scores, schema=schema.SCORES))
    write_table(run.path("selection.parquet"), _ordered(scores, picks, settings, config.seed))
    cost.extra = {
        "samples": len(features.sample_id),
        "pool": len(pool),
        "selected": len(picks.indices),
    }
    hits = learnability.count_hits(features.ndcg, candidates=items, cutoff=config.reward.cutoff)
    _summary(run, scores, picks, hits, pool)


def score_samples(
    features: Features, items: int, config: Config, *, say: Callable[[str], None]
) -> tuple[dict[str, NDArray], NDArray[np.int64]]:
    """The columns of ``scores.parquet``, and the rows that may be selected.

    Args:
        features: of N samples.
        items: V, size of the catalogue.
        say: takes each line for the user.

    Raises:
        ConfigError: the settings do not fit the features.
    """
    settings = config.selection
    mean_reward = features.rewards.mean(axis=1)
    chance = learnability.chance_level(items, cutoff=config.reward.cutoff)
    lift = learnability.lift(features.ndcg.mean(axis=1), chance=chance)
    pool = _pool(settings, lift, say=say)
    reward = lift if settings.lift else mean_reward
    if settings.learnability == "gaussian_live":
        hits = learnability.count_hits(features.ndcg, candidates=items, cutoff=config.reward.cutoff)
        if not hits.any():
            raise ConfigError(
                "no rollout of any sample ranks its target above chance, so gaussian_live has no "
                "centre; train the proxy longer or set selection.learnability=gaussian"
            )
        learnable = learnability.gaussian_live(reward, hits=hits)
    else:
        learnable = learnability.gaussian(reward, mu=settings.mu, sigma=settings.sigma)
    representative = _representativeness(features.hvp, say=say)
    value = combine(learnable, representative, alpha=settings.alpha, fusion=settings.fusion)
    scores = {
        "sample_id": features.sample_id,
        "mean_reward": mean_reward,
        "learnability": learnable,
        "representativeness": representative,
        "value": value,
    }
    return scores, pool


def pick(
    features: Features,
    value: NDArray[np.float64],
    pool: NDArray[np.int64],
    settings: SelectionConfig,
) -> MaxMin:
    """The budget's samples by value and diversity, as rows of the features."""
    found = maxmin(features.embedding[pool], scores=value[pool], budget=settings.count(len(value)))
    return MaxMin(pool[found.indices], found.novelty)


def load_features(run: Run) -> Features:
    """All feature shards, sorted by sample_id and complete.

    Raises:
        ArtifactError: no shard, a sample twice, or other samples than in ``train.parquet``.
    """
    paths = sorted(run.path("features").glob("part-*.parquet"))
    if not paths:
        raise ArtifactError(f"{run.path('features')} holds no part; run `minirec score` first")
    table = pa.concat_tables([read_table(path) for path in paths]).sort_by("sample_id")
    ids = table["sample_id"].to_numpy()
    train = np.sort(read_table(run.path("corpus", "train.parquet"))["sample_id"].to_numpy())
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        raise ArtifactError(f"sample {repeated[0]} occurs twice in {run.path('features')}")
    if not np.array_equal(ids, train):
        odd = np.setxor1d(ids, train)
        raise ArtifactError(
            f"{run.path('features')} has {len(ids)} samples and train.parquet {len(train)}; they "
            f"differ in {len(odd)}, first sample {odd[0]}; run `minirec score --overwrite`"
        )
    return Features(
        sample_id=ids,
        rewards=_matrix(table, "rewards").astype(np.float64),
        ndcg=_matrix(table, "ndcg").astype(np.float64),
        embedding=_matrix(table, "embedding"),
        hvp=_matrix(table, "hvp"),
    )


def _matrix(table: pa.Table, name: str) -> NDArray:
    """A list column whose lists are equally long, as (N, length)."""
    lists = table[name].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if len(lists) == 0 or len(flat) % len(lists):
        raise ArtifactError(f"column {name} of the features is ragged; score again")
    return flat.reshape(len(lists), -1)


def _representativeness(
    hvp: NDArray[np.float32], *, say: Callable[[str], None]
) -> NDArray[np.float64]:
    """Alignment of the samples that move the policy at all; 0 for the others.

    A target with probability 1 leaves no gradient, hence no direction.
    """
    moves = (hvp != 0).any(axis=1)
    result = np.zeros(len(hvp))
    if moves.any():
        result[moves] = alignment(hvp[moves])
    if not moves.all():
        say(f"select: {(~moves).sum():,} samples have no gradient; representativeness 0")
    return result


def _pool(
    settings: SelectionConfig, lift: NDArray[np.float64], *, say: Callable[[str], None]
) -> NDArray[np.int64]:
    """Rows that may be selected, at least as many as the budget."""
    count = len(lift)
    budget = settings.count(count)
    if budget > count:
        raise ConfigError(
            f"selection.budget {budget} exceeds the {count} samples of the corpus; lower it"
        )
    if settings.curriculum == "grouped" and settings.groups > budget:
        raise ConfigError(
            f"selection.groups {settings.groups} exceeds the {budget} selected samples; "
            f"lower groups or raise selection.budget"
        )
    least = settings.min_lift
    if least is None:
        return np.arange(count)
    pool = np.flatnonzero(lift >= least)
    if len(pool) >= budget:
        return pool
    say(
        f"select: only {len(pool):,} of {count:,} samples reach selection.min_lift {least:g}; the "
        f"budget is filled up with the next best"
    )
    return np.sort(np.argsort(-lift, kind="stable")[:budget])


def _ordered(
    scores: dict[str, NDArray], picks: MaxMin, settings: SelectionConfig, seed: int
) -> pa.Table:
    """The selection in training order."""
    rows = np.sort(picks.indices)
    groups = settings.groups if settings.curriculum == "grouped" else 1
    order = CURRICULA[settings.curriculum](
        scores["sample_id"][rows],
        mean_reward=scores["mean_reward"][rows],
        groups=groups,
        seed=seed,
    )
    at = np.searchsorted(scores["sample_id"], order)
    novelty = dict(zip(picks.indices.tolist(), picks.novelty.tolist(), strict=True))
    columns = {name: values[at] for name, values in scores.items()}
    columns |= {
        "rank": np.arange(len(order)),
        "group": group_numbers(len(order), groups=groups),
        "novelty": np.array([novelty[row] for row in at.tolist()]),
    }
    return pa.table(
        {name: columns[name] for name in schema.SELECTION.names}, schema=schema.SELECTION
    )


def _summary(
    run: Run,
    scores: dict[str, NDArray],
    picks: MaxMin,
    hits: NDArray[np.int64],
    pool: NDArray[np.int64],
) -> None:
    chosen, count = picks.indices, len(hits)
    value = scores["value"]
    top = pool[np.argsort(-value[pool], kind="stable")[: len(chosen)]]
    overlap = len(np.intersect1d(top, chosen)) / len(chosen)
    run.say(
        f"select: kept {len(chosen):,} of {count:,} samples; "
        f"dead (no rollout above chance): {np.mean(hits == 0):.0%} of the corpus, "
        f"{np.mean(hits[chosen] == 0):.0%} of the selection; "
        f"overlap with the plain top {len(chosen):,}: {overlap:.0%}"
    )
    truth = run.path("corpus", "truth.parquet")
    if truth.exists():
        for label, before, after in planted_shares(
            read_table(truth), scores["sample_id"], scores["sample_id"][chosen]
        ):
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
