"""Baselines: other selection methods, for comparison (method, section 8).

Each is a function ``method(features, budget=k, seed=s)`` that returns (k,) int64 distinct sample
ids, best first if the method ranks them. Ties go to the lowest sample_id. It raises `FeatureError`
if the features lack what it needs, and `ValueError` if `budget` is outside 1..N. To add a method,
write a function here and add it to `METHODS`, or name your own function in the setting as
``package.module:function``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minirec.errors import FeatureError
from minirec.rng import seed_of
from minirec.selection import learnability
from minirec.selection.checks import Floats, lengths, matrix, norms
from minirec.selection.clusters import cluster_space, spread_picks
from minirec.selection.clusters import clusters as find_clusters
from minirec.selection.diversity import maxmin
from minirec.selection.features import Features

Ids = NDArray[np.int64]
SOLVED = 0.98
"""Mean NDCG above which nearly every rollout ranks the target first."""


def random(features: Features, *, budget: int, seed: int) -> Ids:
    """A uniformly random subset."""
    _check(features, budget)
    return _generator(seed, "random").permutation(features.sample_id)[:budget]


def random_live(features: Features, *, budget: int, seed: int) -> Ids:
    """Random samples with a hit; if there are too few, random other samples are added."""
    _check(features, budget)
    order = _generator(seed, "random_live").permutation(len(features))
    live_first = order[np.argsort(features.hits[order] == 0, kind="stable")]
    return features.sample_id[live_first[:budget]]


def random_band(features: Features, *, budget: int, seed: int) -> Ids:
    """Random samples that are neither hopeless (no hit) nor solved; others if there are too few."""
    _check(features, budget)
    gain = features.mean_reward if features.mean_ndcg is None else features.mean_ndcg
    outside = (features.hits == 0) | (gain > SOLVED)
    order = _generator(seed, "random_band").permutation(len(features))
    return features.sample_id[order[np.argsort(outside[order], kind="stable")][:budget]]


def full(features: Features, *, budget: int, seed: int) -> Ids:
    """All samples, whatever the budget: the reference for every subset."""
    _check(features, budget)
    return features.sample_id.copy()


def top_reward(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples with the highest mean reward."""
    return _highest(features, features.mean_reward, budget)


def hit_variance(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples with the highest p (1 - p), where p is the hit probability (method, section 3)."""
    return _highest(features, spread_of_hits(features), budget)


def spread_of_hits(features: Features) -> Floats:
    """`learnability.hit_variance` of the samples, (N,) float64; 0 for screened ones.

    Raises:
        FeatureError: no sample has two rollouts.
    """
    if features.rollouts.max() < 2:
        raise FeatureError(
            "hit_variance needs samples with two or more rollouts; give their rewards as lists, or "
            "the columns hits and rollouts"
        )
    spread = learnability.hit_variance(features.hits, rollouts=features.rollouts)
    # Without rollouts p is the prior mean, which is above that of samples without hits.
    return np.where(features.screened, 0.0, spread)


def grad_norm(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples with the longest gradient (GraNd, arXiv 2107.07075)."""
    gradient = matrix("gradient", features.need("gradient", by="grad_norm"))
    return _highest(features, norms("gradient", gradient), budget)


def el2n(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples with the largest error of the softmax over the catalogue (EL2N, arXiv 2107.07075)."""
    return _highest(features, features.need("el2n", by="el2n"), budget)


def kcenter(features: Features, *, budget: int, seed: int) -> Ids:
    """Always the sample farthest from the picks (arXiv 1708.00489): MaxMin with q = 1."""
    _check(features, budget)
    embedding = features.need("embedding", by="kcenter")
    found = maxmin(embedding, scores=np.ones(len(features)), budget=budget)
    return features.sample_id[found.indices]


LARGE = 1e9
"""If N k d exceeds it, `kmeans` starts from random samples and makes fewer iterations."""


def kmeans(features: Features, *, budget: int, seed: int) -> Ids:
    """The nearest sample to each of k centroids of the unit embeddings, in centroid order.

    Lloyd's algorithm from k-means++ with at most 30 iterations. If that would take minutes, it
    starts from random samples and makes as few as 3 iterations. If two centroids have the same
    nearest sample, the second one takes the nearest free sample.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    _check(features, budget)
    vectors = matrix("embedding", features.need("embedding", by="kmeans"))
    unit = (vectors / lengths("embedding", vectors)[:, None]).astype(np.float32)
    products = unit.size * budget
    model = KMeans(
        budget,
        init="k-means++" if products <= LARGE else "random",
        n_init=1,
        max_iter=int(np.clip(300 * LARGE / products, 3, 30)),
        random_state=seed_of(seed, "select", "kmeans"),
    )
    with warnings.catch_warnings():
        # It warns if there are fewer distinct embeddings than centroids.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centroids = model.fit(unit).cluster_centers_
    return features.sample_id[_nearest_free(unit, centroids)]


def _nearest_free(unit: NDArray[np.float32], centroids: NDArray[np.floating]) -> Ids:
    """The nearest row to each centroid that no earlier centroid has taken."""
    taken = np.zeros(len(unit), dtype=bool)
    rows = np.empty(len(centroids), dtype=np.int64)
    for start in range(0, len(centroids), 64):
        products = centroids[start : start + 64] @ unit.T  # unit vectors: a large product is near
        for number, product in enumerate(products, start):
            rows[number] = np.where(taken, -np.inf, product).argmax()
            taken[rows[number]] = True
    return rows


STRATA = 50
HARDEST = 0.1


def ccs(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples from all strata of mean reward (coverage-centric selection, arXiv 2210.15809).

    The `HARDEST` share with the lowest mean reward is dropped, or less if the budget needs it. The
    other samples form `STRATA` strata of equal width in mean reward. Starting with the smallest,
    each stratum gives an equal share of the remaining budget at random, or all of its samples.
    """
    return _from_strata(features, features.mean_reward, budget, _generator(seed, "ccs"))


def surrogate(features: Features, *, budget: int, seed: int) -> Ids:
    """Samples from all strata of a cheap recommender's loss (after DEALRec, arXiv 2401.17197).

    As `ccs`, with the loss of the collaborative counts in place of the mean reward: no policy is
    asked what a sample is worth. DEALRec's own influence and effort scores need gradients.
    """
    losses = features.need("surrogate_loss", by="surrogate")
    return _from_strata(features, -losses, budget, _generator(seed, "surrogate"))


def _from_strata(
    features: Features, ease: Floats, budget: int, generator: np.random.Generator
) -> Ids:
    """Samples from all strata of ease (N,), without the hardest; see `ccs`."""
    _check(features, budget)
    reward, count = ease, len(features)
    drop = min(int(HARDEST * count), count - budget)
    rows = np.sort(np.argsort(reward, kind="stable")[drop:])
    edges = np.linspace(reward[rows].min(), reward[rows].max(), STRATA + 1)
    number = np.searchsorted(edges[1:-1], reward[rows], side="right")
    strata = [rows[number == s] for s in np.unique(number)]
    strata.sort(key=len)
    chosen: list[Ids] = []
    left = budget
    for place, stratum in enumerate(strata):
        share = min(len(stratum), left // (len(strata) - place))
        chosen.append(generator.choice(stratum, size=share, replace=False))
        left -= share
    return features.sample_id[np.concatenate(chosen)]


def less(features: Features, *, budget: int, seed: int) -> Ids:
    """Highest cosine of LoRA gradient and mean validation gradient (LESS, arXiv 2402.04333).

    Without LoRA gradients, the column `gradient` is used. Samples without a gradient come last.

    Raises:
        FeatureError: a gradient is missing, or the validation gradient has another width or is
            zero.
    """
    _check(features, budget)
    name = "gradient" if features.lora_gradient is None else "lora_gradient"
    gradient = matrix(name, features.need(name, by="less"))
    goal = np.asarray(features.need("validation_gradient", by="less"), dtype=np.float64)
    size = float(np.linalg.norm(goal))
    if goal.shape != gradient.shape[1:] or not np.isfinite(size) or size == 0:
        raise FeatureError(
            f"validation_gradient has shape {goal.shape} and length {size:g}; expected "
            f"{gradient.shape[1:]}, the width of {name}, and a length above 0"
        )
    length = norms(name, gradient)
    along = gradient @ (goal / size).astype(gradient.dtype)
    cosine = np.where(length > 0, along / np.where(length > 0, length, 1), -np.inf)
    return _highest(features, cosine, budget)


def learn_align(features: Features, *, budget: int, seed: int) -> Ids:
    """Success-rate learnability times gradient alignment (after LearnAlign, arXiv 2506.11480).

    The score of sample i is the mean over j of ``v_i v_j cos(g_i, g_j)`` with v = p (1 - p), where
    p is the share of its rollouts with a hit. The unit gradients take out the bias of their
    lengths. The paper's formula could not be verified. Gradients are those of the LoRA weights,
    else `rollout_gradient`, else `gradient`; a sample without a gradient has the score 0.
    """
    names = ("lora_gradient", "rollout_gradient", "gradient")
    name = next((n for n in names if getattr(features, n) is not None), names[-1])
    gradient = matrix(name, features.need(name, by="learn_align"))
    length = norms(name, gradient)
    rate = features.hits / np.maximum(features.rollouts, 1)
    share = rate * (1 - rate) / np.where(length > 0, length, 1)
    weighted = share[:, None] * gradient.astype(np.float64)
    return _highest(features, weighted @ weighted.mean(0), budget)


def clustered(
    features: Features,
    *,
    budget: int,
    seed: int,
    clusters: int = 10,
    difficulty_weight: float = 1.0,
) -> Ids:
    """The same number from each cluster of meaning and difficulty (after arXiv 2508.05015).

    `sample_clusters` are made, and each gives samples that are far from each other
    (`clusters.spread_picks`).
    """
    _check(features, budget)
    points, labels = sample_clusters(
        features, seed=seed, count=clusters, difficulty_weight=difficulty_weight
    )
    return features.sample_id[spread_picks(points, labels, budget=budget)]


def sample_clusters(
    features: Features, *, seed: int, count: int, difficulty_weight: float
) -> tuple[Floats, Ids]:
    """The points (N, c) of the samples (`clusters.cluster_space`), and their clusters (N,)."""
    embedding = features.need("embedding", by="clustering")
    points = cluster_space(embedding, features.mean_reward, weight=difficulty_weight)
    return points, find_clusters(points, count=count, seed=seed)


def _check(features: Features, budget: int) -> None:
    if not 1 <= budget <= len(features):
        raise ValueError(f"budget is {budget}; expected 1..{len(features)}, the samples")


def _highest(features: Features, scores: Floats, budget: int) -> Ids:
    _check(features, budget)
    return features.sample_id[np.argsort(-scores, kind="stable")[:budget]]


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, "select", name))


METHODS: dict[str, Callable[..., Ids]] = {
    "random": random,
    "random_live": random_live,
    "random_band": random_band,
    "full": full,
    "top_reward": top_reward,
    "hit_variance": hit_variance,
    "grad_norm": grad_norm,
    "el2n": el2n,
    "kmeans": kmeans,
    "kcenter": kcenter,
    "ccs": ccs,
    "less": less,
    "clustered": clustered,
    "learn_align": learn_align,
    "surrogate": surrogate,
}
"""Names of ``selection.method``. `minirec.config.choices` reads them here."""
