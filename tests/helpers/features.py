"""Features of a few samples, made by hand."""

from __future__ import annotations

import numpy as np

from minirec.selection.features import Features


def features(count: int = 4, **given) -> Features:
    """Features of samples 10, 11, ... with defaults."""
    columns = {
        "sample_id": np.arange(10, 10 + count),
        "mean_reward": np.zeros(count),
        "rollouts": np.full(count, 4),
        "hits": np.zeros(count, dtype=np.int64),
        "screened": np.zeros(count, dtype=bool),
    }
    return Features(**columns | {name: np.asarray(values) for name, values in given.items()})


def rich(count: int = 60, seed: int = 0) -> Features:
    """Features for every baseline, with repeated embeddings."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(count, 5))
    embedding[count // 2 :] = embedding[: count - count // 2]
    return features(
        count,
        mean_reward=rng.random(count).round(1),
        hits=rng.integers(5, size=count),
        embedding=embedding.astype(np.float16),
        gradient=rng.normal(size=(count, 3)).astype(np.float32),
        el2n=rng.random(count),
        validation_gradient=rng.normal(size=3).astype(np.float32),
        surrogate_loss=rng.random(count),
    )
