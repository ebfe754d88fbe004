"""From features to an ordered subset (method, sections 3 to 6 and 8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.config import choices
from minirec.config.selection import SelectionConfig
from minirec.corpus import schema
from minirec.errors import ConfigError, FeatureError
from minirec.selection import learnability
from minirec.selection.baselines import sample_clusters, spread_of_hits
from minirec.selection.checks import Floats, matrix, norms, scaled
from minirec.selection.curriculum import group_numbers
from minirec.selection.diversity import MaxMin, maxmin
from minirec.selection.features import Features
from minirec.selection.readers import VECTORS
from minirec.selection.value import alignment, combine, normalised_rank

Say = Callable[[str], None]
"""Shows a line to the user."""
Diversity = Callable[..., MaxMin]
"""`maxmin`, or a function that makes the same picks."""
Scores = dict[str, NDArray]
"""Columns of ``scores.parquet``, each (N,)."""


def score_samples(
    features: Features, settings: SelectionConfig, *, chance: float, say: Say
) -> tuple[Scores, NDArray[np.int64]]:
    """The columns of ``scores.parquet``, and the rows that can be selected.

    Without a gradient, representativeness is NaN and the value is the learnability alone. `chance`
    is the NDCG (or reward, if there is no NDCG) of a policy that ranks at random.

    Raises:
        ConfigError: the settings do not fit the features.
    """
    gain = features.mean_reward if features.mean_ndcg is None else features.mean_ndcg
    if settings.method == "value":
        _check_range(gain if settings.lift else features.mean_reward, settings, say=say)
    lift = learnability.lift(gain, chance=chance)
    pool = _pool(settings, lift, say=say)
    reward = lift if settings.lift else features.mean_reward
    try:
        learnable = choices.LEARNABILITY.find(settings.learnability)(features, reward, settings)
    except FeatureError as error:
        if settings.method == "value":
            raise
        say(f"{error}; {settings.method} does not use it, so the scores show the Gaussian instead")
        learnable = _gaussian(features, reward, settings)
    learnable = np.asarray(learnable, dtype=np.float64)
    if learnable.shape != (len(features),) or not np.isfinite(learnable).all():
        raise FeatureError(
            f"selection.learnability={settings.learnability} returned shape {learnable.shape}, or "
            f"NaN or infinity; expected ({len(features)},) finite numbers"
        )
    directions = _directions(features, settings, say=say)
    if directions is not None:
        representative = _representativeness(directions, say=say)
        value = combine(learnable, representative, alpha=settings.alpha, fusion=settings.fusion)
    else:
        if settings.alpha == 0 and settings.method == "value":
            raise ConfigError(
                "selection.alpha is 0 and there is no gradient: no criterion is left; raise alpha"
            )
        representative = np.full(len(features), np.nan)
        value = learnable if settings.fusion == "sum" else normalised_rank(learnable)
    if settings.method == "value" and np.ptp(value) == 0 and np.ptp(reward) > 0:
        raise ConfigError(f"all {len(value):,} samples have the same value; {_remedy(settings)}")
    scores = {
        "sample_id": features.sample_id,
        "mean_reward": features.mean_reward,
        "learnability": learnable,
        "representativeness": representative,
        "value": value,
    }
    return scores, pool


def _remedy(settings: SelectionConfig) -> str:
    if settings.learnability == "hit_variance":
        return "all have the same number of hits; give another chance level"
    return "set selection.mu=null and selection.sigma=null to fit the Gaussian to the rewards"


def _check_range(reward: Floats, settings: SelectionConfig, *, say: Say) -> None:
    """Warn if the Gaussian expects rewards from 0 to 1 and others occur."""
    low, high, mu = reward.min(), reward.max(), settings.mu
    fixed = settings.learnability == "gaussian" and mu is not None and 0 <= mu <= 1
    if fixed and (low < 0 or high > 1):
        say(
            f"mean rewards lie in {low:g} to {high:g}, but selection.mu={mu:g} expects rewards "
            f"from 0 to 1: rescale them, or set selection.mu=null and selection.sigma=null"
        )


def pick(
    features: Features,
    value: Floats,
    pool: NDArray[np.int64],
    settings: SelectionConfig,
    *,
    seed: int,
    say: Say,
    diversity: Diversity = maxmin,
) -> MaxMin:
    """The selected samples, as rows of the features.

    With ``selection.method: value`` they are picked by value and diversity, or by value alone
    without embeddings; otherwise by a baseline. Novelty is NaN where diversity was not used.

    Raises:
        ConfigError: the user's method cannot be imported.
        FeatureError: the features lack what the method needs, or the user's method did not return
            `budget` distinct known samples.
    """
    budget = settings.count(len(features))
    if settings.method != "value":
        if settings.method == "random_live" and (live := int((features.hits > 0).sum())) < budget:
            say(f"only {live:,} samples have a hit; random_live adds others")
        method = choices.METHODS.find(settings.method)
        more = {}
        if settings.method == "clustered":
            more = {
                "clusters": settings.clusters,
                "difficulty_weight": settings.difficulty_weight,
            }
        ids = np.asarray(method(features, budget=budget, seed=seed, **more))
        if ids.shape != (budget,) or len(np.intersect1d(ids, features.sample_id)) != budget:
            raise FeatureError(
                f"selection.method={settings.method} returned {ids.size} samples, with "
                f"{len(np.unique(ids))} different ids; expected {budget} different known samples"
            )
        return _unweighed(np.searchsorted(features.sample_id, ids))
    if features.embedding is None:
        say("no embeddings: the samples with the highest values are selected, without diversity")
        return _unweighed(plain_top(value, pool, budget))
    found = diversity(features.embedding[pool], scores=value[pool], budget=budget)
    return MaxMin(pool[found.indices], found.novelty)


def _unweighed(rows: NDArray[np.int64]) -> MaxMin:
    return MaxMin(rows, np.full(len(rows), np.nan))


def plain_top(value: Floats, pool: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The `count` rows of the pool with the highest values, ties to the lowest row."""
    return pool[np.argsort(-value[pool], kind="stable")[:count]]


def arms_of(
    features: Features, settings: SelectionConfig, *, seed: int
) -> NDArray[np.int64] | None:
    """The clusters (N,) among which the self-paced curriculum draws; None for others.

    Raises:
        FeatureError: there are no embeddings.
    """
    if settings.curriculum != "self_paced":
        return None
    return sample_clusters(
        features,
        seed=seed,
        count=settings.clusters,
        difficulty_weight=settings.difficulty_weight,
    )[1]


def ordered(
    scores: Scores,
    picks: MaxMin,
    settings: SelectionConfig,
    *,
    seed: int,
    arms: NDArray[np.int64] | None = None,
) -> pa.Table:
    """The selection in training order, with the columns of ``selection.parquet``.

    `arms` are the clusters of all samples in `scores`; then the group of a sample is its cluster.
    """
    rows = np.sort(picks.indices)
    groups = settings.curriculum_groups
    ids, reward = scores["sample_id"][rows], scores["mean_reward"][rows]
    curriculum = choices.CURRICULA.find(settings.curriculum)
    order = curriculum(ids, mean_reward=reward, groups=groups, seed=seed)
    if not np.array_equal(np.sort(order, axis=None), ids):
        raise FeatureError(
            f"selection.curriculum={settings.curriculum} returned {np.size(order)} ids; expected "
            f"the {len(rows)} ids that it got, each once"
        )
    at = np.searchsorted(scores["sample_id"], order)
    novelty = dict(zip(picks.indices.tolist(), picks.novelty.tolist(), strict=True))
    columns = {name: values[at] for name, values in scores.items()}
    columns |= {
        "rank": np.arange(len(order)),
        "group": group_numbers(len(order), groups=groups) if arms is None else arms[at],
        "novelty": np.array([novelty[row] for row in at.tolist()]),
    }
    return pa.table(
        {name: columns[name] for name in schema.SELECTION.names}, schema=schema.SELECTION
    )


def with_unscored(scores: Scores, sample_id: NDArray[np.int64]) -> Scores:
    """The scores of N ascending samples, NaN for samples without scores."""
    rows = np.searchsorted(sample_id, scores["sample_id"])
    found: Scores = {name: np.full(len(sample_id), np.nan) for name in scores}
    for name, values in scores.items():
        found[name][rows] = values
    return found | {"sample_id": sample_id}


def _gaussian(features: Features, reward: Floats, settings: SelectionConfig) -> Floats:
    """Gaussian of the mean reward with centre mu and width sigma (the paper)."""
    return learnability.gaussian(reward, mu=settings.mu, sigma=settings.sigma)


def _gaussian_live(features: Features, reward: Floats, settings: SelectionConfig) -> Floats:
    """Gaussian fitted to samples with a rollout above chance; ignores mu and sigma."""
    return learnability.gaussian_live(reward, hits=features.hits)


def _hit_variance(features: Features, reward: Floats, settings: SelectionConfig) -> Floats:
    """Variance p (1 - p) of a rollout's hit; p is the posterior share of rollouts above chance."""
    # Scaled to the range of the Gaussians, so that it can be added to representativeness.
    return scaled(spread_of_hits(features))


LEARNABILITY: dict[str, Callable[[Features, Floats, SelectionConfig], Floats]] = {
    "gaussian": _gaussian,
    "gaussian_live": _gaussian_live,
    "hit_variance": _hit_variance,
}
"""Names of ``selection.learnability``: (features, reward or lift, settings) -> (N,) float64.

`minirec.config.choices` reads the names here."""

DIRECTIONS = {
    "head_hvp": "hvp",
    "head_gradient": "rollout_gradient",
    "lora_projected": "lora_gradient",
}
"""Value of ``selection.directions`` -> the feature that holds the vectors."""


def vectors_read(settings: SelectionConfig) -> tuple[str, ...]:
    """The vectors of complete features that are loaded for these settings."""
    known = ("gaussian", "gaussian_live", "hit_variance")
    if settings.method == "value" and settings.learnability in known:
        return ("embedding", DIRECTIONS[settings.directions])
    return VECTORS  # other functions may read any of them


def _directions(
    features: Features, settings: SelectionConfig, *, say: Say
) -> NDArray[np.floating] | None:
    """The vectors of the settings, or another kind if those are not known."""
    wanted = DIRECTIONS[settings.directions]
    for name in (wanted, "gradient", "hvp", "rollout_gradient", "lora_gradient"):
        vectors = getattr(features, name)
        if vectors is not None:
            if name != wanted:
                say(f"no {wanted}: representativeness uses {name}")
            return vectors
    say("no gradients: the value is the learnability alone")
    return None


def _representativeness(vectors: NDArray[np.floating], *, say: Say) -> Floats:
    """Alignment of samples with a gradient; 0 for samples without one."""
    vectors = matrix("vectors", vectors)
    moves = norms("vectors", vectors) > 0
    result = np.zeros(len(vectors))
    if moves.any():
        result[moves] = alignment(vectors[moves])
    if not moves.all():
        say(f"{(~moves).sum():,} samples have no gradient; their representativeness is 0")
    return result


def _pool(settings: SelectionConfig, lift: Floats, *, say: Say) -> NDArray[np.int64]:
    """Rows that can be selected: at least as many as the budget, and all rows for a baseline."""
    count = len(lift)
    budget = settings.count(count)
    if budget > count:
        raise ConfigError(
            f"selection.budget {budget} exceeds the {count} samples with scores; lower it"
        )
    if settings.curriculum_groups > budget:
        raise ConfigError(
            f"selection.groups {settings.groups} exceeds the {budget} selected samples; "
            f"lower groups or raise selection.budget"
        )
    least = settings.min_lift
    if least is None or settings.method != "value":
        return np.arange(count)
    pool = np.flatnonzero(lift >= least)
    if len(pool) >= budget:
        return pool
    say(
        f"only {len(pool):,} of {count:,} samples reach selection.min_lift {least:g}; the "
        f"rest of the budget has the next highest lift"
    )
    return np.sort(np.argsort(-lift, kind="stable")[:budget])
