"""Weights of the prior by maximum likelihood of train targets (method, section 11).

This is a conditional logit with a weight for each part: concave, so it has one optimum.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minirec.corpus.table import Sample, SampleFile
from minirec.prior.counts import rows_at_once
from minirec.prior.prior import Prior
from minirec.rng import seed_of

LAST = 0.1
"""Share of the train split that the weights are fitted on: the newest samples."""
ROWS = 1000
"""Largest number of samples of a fit."""
CANDIDATES = 20_000
"""Largest number of items in the softmax of a fit."""
LEAST = 1e-3
"""Smallest weight of a part. That of the policy divides the temperature, so it may not be 0."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """What B samples chose from.

    parts: (K, B, C) scores of C candidates. target: (B,) position among them. excluded: (B, C) True
    for a candidate that is not ranked. items: (C,) item ids of the candidates. weight: (B,) of each
    sample in the likelihood; None: 1.
    """

    parts: NDArray[np.floating]
    target: NDArray[np.int64]
    excluded: NDArray[np.bool_]
    items: NDArray[np.int64]
    weight: Floats | None = None

    def and_policy(self, scores: NDArray[np.floating]) -> Choices:
        """With the policy's scores cos / tau (B, C) as a part before the others."""
        return replace(self, parts=np.concatenate([scores[None], self.parts]))


def fit(choices: Choices) -> tuple[Floats, float]:
    """Weights (K,) of the parts, `LEAST` or more, and the mean log-likelihood in nats.

    The mean is over w_i log p_i with the weights w_i of the samples.
    """
    from scipy.optimize import minimize

    parts = choices.parts.astype(np.float64)
    rows = np.arange(len(choices.target))
    own = parts[:, rows, choices.target]
    weight = np.ones(len(rows)) if choices.weight is None else choices.weight

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = np.tensordot(weights, parts, axes=1)
        scores[choices.excluded] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores)
        total = p.sum(axis=1, keepdims=True)
        log_p = scores[rows, choices.target] - np.log(total[:, 0])
        p /= total
        gradient = (weight * (own - np.einsum("bc,kbc->kb", p, parts))).mean(axis=1)
        return -float((weight * log_p).mean()), -gradient

    bounds = [(LEAST, None)] * len(parts)
    found = minimize(loss, np.ones(len(parts)), jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x, -float(found.fun)


def choices(
    prior: Prior,
    samples: Sequence[Sample],
    *,
    items: int,
    seed: int,
    factors: Floats | None = None,
) -> Choices:
    """The parts of the prior for samples, over at most `CANDIDATES` of V `items`.

    A larger catalogue is represented by random items and the targets. `factors` (V,) weight the
    targets (`minirec.corpus.weights.load_factors`).
    """
    target = np.array([s.target for s in samples], dtype=np.int64)
    kept = np.arange(items)
    if items > CANDIDATES:
        drawn = random.Random(seed_of(seed, "prior")).sample(range(items), CANDIDATES)
        kept = np.unique(np.concatenate([target, np.array(drawn)]))
    place = np.searchsorted(kept, target)
    excluded = np.zeros((len(samples), len(kept)), bool)
    for row, sample in enumerate(samples):
        excluded[row] = np.isin(kept, sample.excluded)
    excluded[np.arange(len(samples)), place] = False
    size = rows_at_once(items, most=64)
    blocks = [samples[i : i + size] for i in range(0, len(samples), size)]
    found = [[part[:, kept].toarray() for part in prior.sparse_parts(block)] for block in blocks]
    parts = np.concatenate([np.stack(one) for one in found], axis=1)
    weight = None if factors is None else factors[target]
    return Choices(parts, place, excluded, kept, weight)


def newest(file: SampleFile) -> list[Sample]:
    """At most `ROWS` of the last tenth of the train split, evenly spread."""
    count = len(file)
    first = min(int((1 - LAST) * count), count - 1)
    rows = np.unique(np.linspace(first, count - 1, min(ROWS, count - first)).astype(int))
    return file.take(rows.tolist())
