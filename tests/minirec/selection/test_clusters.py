"""Clusters of samples, and the picks from each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.errors import FeatureError
from minirec.selection.baselines import clustered
from minirec.selection.clusters import cluster_space, clusters, spread_picks
from minirec.selection.features import Features


def features(embedding, reward):
    n = len(reward)
    ones = np.ones(n, np.int64)
    ids = np.arange(100, 100 + n)
    return Features(
        ids, np.array(reward, float), ones, ones, np.zeros(n, bool), embedding=embedding
    )


def test_picks_start_near_the_centroid_and_go_far():
    """The centroid of 0, 1, 2, 10 is 3.25; 2 is nearest to it, and 10 is farthest from 2."""
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    assert spread_picks(points, np.zeros(4, np.int64), budget=2).tolist() == [2, 3]
    assert spread_picks(points, np.zeros(4, np.int64), budget=3).tolist() == [2, 3, 0]


def test_a_small_cluster_gives_all_and_the_others_share_the_rest():
    labels = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2])
    points = np.arange(9.0)[:, None]
    found = spread_picks(points, labels, budget=5)
    assert np.bincount(labels[found]).tolist() == [1, 2, 2]
    assert sorted(spread_picks(points, labels, budget=9).tolist()) == list(range(9))


def test_the_space_scales_directions_by_the_first_and_difficulty_by_its_spread():
    angle = np.array([0.0, 0.0, np.pi / 2, np.pi / 2])
    embedding = np.column_stack([np.cos(angle), np.sin(angle)]) * [[1], [5], [2], [1]]
    space = cluster_space(embedding, [0.0, 1.0, 0.0, 1.0], weight=3)
    assert space.shape == (4, 3)
    assert np.abs(space[:, 0]).tolist() == pytest.approx([1] * 4)  # one direction, of unit spread
    assert np.abs(space[:, 1]).max() < 1e-7
    assert space[:, 2].tolist() == pytest.approx([-3, 3, -3, 3])
    assert not cluster_space(embedding, [0.5] * 4, weight=3)[:, 2].any()


def test_clusters_find_meaning_or_difficulty_by_its_weight():
    rng = np.random.default_rng(0)
    base = np.repeat([[1.0, 0, 0], [0, 1.0, 0]], 20, axis=0)
    embedding = base + 0.01 * rng.standard_normal((40, 3))
    reward = np.tile([0.0, 1.0], 20)
    by_meaning = clusters(cluster_space(embedding, reward, weight=0), count=2, seed=1)
    by_reward = clusters(cluster_space(embedding, reward, weight=50), count=2, seed=1)
    assert by_meaning.tolist() == [0] * 20 + [1] * 20
    assert by_reward.tolist() == [0, 1] * 20


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 50), st.data())
def test_every_budget_gives_that_many_different_samples(n, count, seed, data):
    budget = data.draw(st.integers(1, n))
    rng = np.random.default_rng(seed)
    embedding = rng.integers(0, 2, (n, 4)) + 0.5  # with duplicates
    found = clustered(features(embedding, rng.random(n)), budget=budget, seed=seed, clusters=count)
    assert len(set(found.tolist())) == budget
    assert found.min() >= 100 and found.max() < 100 + n


def test_clustering_needs_embeddings():
    with pytest.raises(FeatureError, match="clustering needs embedding"):
        clustered(features(None, [0.1, 0.2]), budget=1, seed=0)
