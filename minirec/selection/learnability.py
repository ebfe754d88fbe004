"""Learnability of a sample from the rewards of the proxy policy (method, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import betaln, digamma

from minirec.errors import FeatureError
from minirec.selection.checks import Floats, finite, first, nonnegative, scaled


def gaussian(
    mean_reward: ArrayLike, *, mu: float | None = 0.5, sigma: float | None = None
) -> Floats:
    """Gaussian of the mean reward, min-max scaled to [0, 1]: high for rewards near `mu`.

    ``exp(-(r - mu)^2 / (2 sigma^2))``, then ``(x - min) / (max - min + 1e-12)``: arXiv 2602.04278;
    method, section 3. `mean_reward` (N,) is the mean over the rollouts of a sample, or a lift,
    which may be negative. `mu` defaults to its median and `sigma` to its population standard
    deviation, if None. If all rewards are equal, all results (N,) are 0.

    Raises:
        ValueError: `mean_reward` is empty or not finite, `mu` is not finite, or `sigma` is not
            positive.
    """
    reward = finite("mean_reward", mean_reward)
    if mu is not None and not np.isfinite(mu):
        raise ValueError(f"mu is {mu:g}; expected a finite number, or None")
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma:g}; expected a positive number, or None")
    if np.ptp(reward) == 0:
        return np.zeros(len(reward))
    centre = float(np.median(reward)) if mu is None else mu
    width = float(np.std(reward)) if sigma is None else sigma
    if width**2 == 0:  # the square of the width underflows
        return np.zeros(len(reward))
    return scaled(np.exp(-((reward - centre) ** 2) / (2 * width**2)))


def gaussian_live(mean_reward: ArrayLike, *, hits: ArrayLike) -> Floats:
    """`gaussian` fitted to the samples with a hit.

    mu is the median and sigma the interquartile range of `mean_reward` (N,) over samples with hits
    (N,) of 1 or more (method, section 3). With a fixed mu of 0.5, nearly all samples of a hard
    corpus are far from the centre. If the interquartile range is 0, sigma is the standard deviation
    of these samples, or else of all samples.

    Raises:
        ValueError: a value is not finite, or a number of hits is negative.
        FeatureError: no sample has a hit.
    """
    reward = finite("mean_reward", mean_reward)
    live = reward[nonnegative("hits", hits, rows=len(reward)) > 0]
    if not len(live):
        raise FeatureError(
            f"hits is 0 in all {len(reward)} rows: no rollout of any sample ranks its target above "
            f"chance, but gaussian_live needs hits; train the policy of scoring.policy "
            f"longer or set selection.learnability=gaussian"
        )
    low, high = np.percentile(live, [25, 75])
    sigma = high - low or np.std(live) or np.std(reward)
    return gaussian(reward, mu=float(np.median(live)), sigma=float(sigma) or None)


def hit_variance(hits: ArrayLike, *, rollouts: ArrayLike) -> Floats:
    """Variance p (1 - p) of a rollout's hit, (N,) float64 in [0, 0.25]; largest for p = 1/2.

    p is the posterior mean ``(a + h) / (a + b + n)`` with the prior Beta(a, b) of `fit_beta`, which
    is fitted to all samples (empirical Bayes; method, section 3). h are the hits (N,), n the
    rollouts of each sample: one number or (N,). If n is 0, p is the prior mean.

    Raises:
        ValueError: not whole numbers of 0 or more, or more hits than rollouts.
    """
    h, n = _counts(hits, rollouts)
    a, b = fit_beta(h, rollouts=n)
    p = (a + h) / (a + b + n)
    return p * (1 - p)


def fit_beta(hits: ArrayLike, *, rollouts: ArrayLike) -> tuple[float, float]:
    """Maximum-likelihood parameters (a, b) of the Beta prior of the hit counts.

    The counts of the samples with rollouts follow a beta-binomial distribution. a and b are limited
    to 0.001..10,000, because the likelihood may have no maximum (no hits, or no more spread than
    chance). Without any rollout the prior is uniform, (1, 1).

    Arguments and errors as in `hit_variance`.
    """
    h, n = _counts(hits, rollouts)
    pairs, times = np.unique(np.stack([h, n])[:, n > 0], axis=1, return_counts=True)
    if not len(times):
        return 1.0, 1.0
    h, n = pairs

    def loss(logs: Floats) -> tuple[float, Floats]:
        """Minus the log-likelihood per sample, and its gradient by (log a, log b)."""
        a, b = np.exp(logs)
        likelihood = times @ (betaln(h + a, n - h + b) - betaln(a, b))
        shared = digamma(a + b) - digamma(n + a + b)
        by_a = times @ (digamma(h + a) - digamma(a) + shared)
        by_b = times @ (digamma(n - h + b) - digamma(b) + shared)
        return -likelihood / times.sum(), -np.array([a * by_a, b * by_b]) / times.sum()

    # All starts have the mean of the data. Several are tried, because the likelihood may be flat.
    mean = (times @ h + 0.5) / (times @ n + 1)
    starts = [np.log([mean * weight, (1 - mean) * weight]) for weight in (0.5, 2.0, 20.0)]
    bounds = [(np.log(1e-3), np.log(1e4))] * 2
    fits = [
        minimize(loss, x, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12) for x in starts
    ]
    a, b = np.exp(min(fits, key=lambda fit: fit.fun).x)
    return float(a), float(b)


def _counts(hits: ArrayLike, rollouts: ArrayLike) -> tuple[Floats, Floats]:
    """Hits and rollouts as (N,) float64 whole numbers with hits <= rollouts."""
    h = nonnegative("hits", hits)
    every = np.full(len(h), rollouts) if np.ndim(rollouts) == 0 else rollouts
    n = nonnegative("rollouts", every, rows=len(h))
    for name, counts in (("hits", h), ("rollouts", n)):
        if (row := first(counts % 1 != 0)) is not None:
            raise ValueError(f"{name} row {row} is {counts[row]:g}; expected a whole number")
    if (row := first(h > n)) is not None:
        raise ValueError(f"hits row {row} is {h[row]:g}; expected at most its {n[row]:g} rollouts")
    return h, n


def chance_level(candidates: int, *, cutoff: int = 1000) -> float:
    """Mean NDCG@cutoff of a target with a uniform random rank in 1..V, V = `candidates`.

    ``1 / V sum over ranks 1..min(m, V) of 1 / log2(rank + 1)`` with m = `cutoff` (method, section
    3). Ranks beyond the cutoff count as 0.

    Raises:
        ValueError: `candidates` or `cutoff` below 1.
    """
    if candidates < 1 or cutoff < 1:
        raise ValueError(
            f"candidates is {candidates} and cutoff is {cutoff}; expected 1 or more for both"
        )
    ranks = np.arange(1, min(cutoff, candidates) + 1)
    return float(np.sum(1 / np.log2(ranks + 1)) / candidates)


def lift(mean_ndcg: ArrayLike, *, chance: float) -> Floats:
    """NDCG above chance as a share of the possible gain: ``(r - c) / (1 - c)``, (N,) float64.

    Method, section 3. r is the mean NDCG (N,) over the rollouts of a sample, c = `chance`. 0 is
    chance, 1 is a perfect policy, a negative lift is worse than chance.

    Raises:
        ValueError: `mean_ndcg` is not finite, or `chance` is outside [0, 1).
    """
    reward = finite("mean_ndcg", mean_ndcg)
    if not 0 <= chance < 1:
        raise ValueError(f"chance is {chance:g}; expected at least 0 and below 1")
    return (reward - chance) / (1 - chance)


def count_hits(ndcg: ArrayLike, *, candidates: int, cutoff: int = 1000) -> NDArray[np.int64]:
    """Number of rollouts with an NDCG (N, G) above `chance_level`: (N,) int64 in 0..G.

    On a small catalogue every rank is within the cutoff, so the cutoff alone does not define a hit
    (method, section 3).

    Raises:
        ValueError: `ndcg` is not (N, G) or not finite.
    """
    values = np.asarray(ndcg, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"ndcg has shape {values.shape}; expected (N, G)")
    bad = ~np.isfinite(values).all(axis=1)
    if (row := first(bad)) is not None:
        raise ValueError(f"ndcg row {row} is {values[row].tolist()}; expected finite numbers")
    return (values > chance_level(candidates, cutoff=cutoff)).sum(axis=1)
