"""Clusters of samples by meaning and difficulty, after SPaRFT (arXiv 2508.05015).

The paper's formulas could not be verified; sizes and scales are ours.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.rng import seed_of
from minirec.selection.checks import Floats, finite, lengths, matrix

Rows = NDArray[np.int64]
COMPONENTS = 16
"""Principal components of the embeddings that enter a distance."""


def cluster_space(embedding: ArrayLike, difficulty: ArrayLike, *, weight: float) -> Floats:
    """Points (N, c + 1) float64 in which samples are clustered.

    The first c columns are principal components of the unit embeddings (N, d), over the standard
    deviation of the first one. The last column is `weight` times the standardised difficulty (N,).
    Unscaled, one column would vanish beside hundreds.

    Raises:
        ValueError: an embedding is zero, or a value is not finite.
    """
    vectors = matrix("embedding", embedding).astype(np.float64)
    unit = vectors / lengths("embedding", vectors)[:, None]
    centred = unit - unit.mean(0)
    size, directions = np.linalg.eigh(centred.T @ centred / len(unit))
    largest = np.sqrt(max(size[-1], 1e-12))
    parts = centred @ directions[:, ::-1][:, :COMPONENTS] / largest
    # The sign of a direction is arbitrary; without a rule it could differ between machines.
    parts = parts * np.where(parts[np.abs(parts).argmax(0), np.arange(parts.shape[1])] < 0, -1, 1)
    hard = finite("difficulty", difficulty, rows=len(vectors))
    standard = (hard - hard.mean()) / max(hard.std(), 1e-12)
    return np.column_stack([parts, weight * standard])


def clusters(points: ArrayLike, *, count: int, seed: int) -> Rows:
    """Cluster (N,) int64 of points (N, c) by k-means; numbered by their first rows.

    There are at most `count`, and fewer if fewer points differ.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = matrix("points", points)
    count = min(count, len(points))
    model = KMeans(count, n_init=1, random_state=seed_of(seed, "select", "clusters"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        labels = model.fit(points).labels_
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def spread_picks(points: ArrayLike, labels: Rows, *, budget: int) -> Rows:
    """`budget` rows, the same number of each cluster, far from each other in it.

    A cluster with fewer gives all it has, and the others share the rest. Picks of a cluster start
    at the point nearest to its centroid; each next one is the point farthest from the picks. Ties
    go to the lowest row.
    """
    points = matrix("points", points).astype(np.float64)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    members.sort(key=len)
    chosen: list[Rows] = []
    left = budget
    for place, rows in enumerate(members):
        share = min(len(rows), left // (len(members) - place))
        chosen.append(rows[_farthest(points[rows], share)])
        left -= share
    return np.concatenate(chosen)


def _farthest(points: Floats, count: int) -> Rows:
    if not count:
        return np.empty(0, np.int64)
    centroid = points.mean(0)
    picks = [int(((points - centroid) ** 2).sum(1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(picks) < count:
        distance = np.minimum(distance, ((points - points[picks[-1]]) ** 2).sum(1))
        distance[picks] = -1
        picks.append(int(distance.argmax()))
    return np.array(picks, np.int64)
