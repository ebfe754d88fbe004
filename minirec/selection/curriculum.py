"""The order of training (method, section 6)."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.selection.checks import finite, unique

Ids = NDArray[np.int64]


def grouped(sample_ids: ArrayLike, *, mean_reward: ArrayLike, groups: int, seed: int = 42) -> Ids:
    """Shuffled groups, each ordered from easy to hard (arXiv 2602.04278; method, section 6).

    The (k,) distinct ids are shuffled by ``random.Random(seed)`` and cut into `groups` groups of
    equal size (the last one takes the rest). Each group is sorted by mean reward (k,), highest
    first, stable. Returns the ids in training order, (k,) int64.

    Raises:
        ValueError: an id occurs twice, a reward is not finite, or `groups` is outside 1..k.
    """
    ids = unique("sample_ids", sample_ids)
    reward = finite("mean_reward", mean_reward, rows=len(ids))
    rows = list(range(len(ids)))
    random.Random(seed).shuffle(rows)
    return ids[rows][np.lexsort((-reward[rows], group_numbers(len(ids), groups=groups)))]


def easy_to_hard(
    sample_ids: ArrayLike, *, mean_reward: ArrayLike, groups: int = 1, seed: int = 42
) -> Ids:
    """From easy to hard in one group; `groups` has no effect. Otherwise like `grouped`."""
    return grouped(sample_ids, mean_reward=mean_reward, groups=1, seed=seed)


def hard_to_easy(
    sample_ids: ArrayLike, *, mean_reward: ArrayLike, groups: int = 1, seed: int = 42
) -> Ids:
    """From hard to easy in one group, ties in shuffled order; `groups` has no effect."""
    reward = finite("mean_reward", mean_reward)
    return grouped(sample_ids, mean_reward=-reward, groups=1, seed=seed)


def shuffled(
    sample_ids: ArrayLike, *, mean_reward: ArrayLike, groups: int = 1, seed: int = 42
) -> Ids:
    """In random order, as a control; rewards and `groups` have no effect."""
    return grouped(sample_ids, mean_reward=np.zeros(np.size(sample_ids)), groups=1, seed=seed)


def self_paced(
    sample_ids: ArrayLike, *, mean_reward: ArrayLike, groups: int = 1, seed: int = 42
) -> Ids:
    """A bandit draws the cluster of each prompt by what training learns there (2508.05015).

    The order here is that of `shuffled`, in which each cluster gives its samples. The draws are in
    `minirec.selection.pace`.
    """
    return shuffled(sample_ids, mean_reward=mean_reward, seed=seed)


def group_numbers(count: int, *, groups: int) -> NDArray[np.int32]:
    """Group of each of `count` positions: (count,) int32 in 0..groups-1.

    Each group has ``count // groups`` positions; the last one takes the rest.

    Raises:
        ValueError: `groups` is outside 1..count.
    """
    if not 1 <= groups <= count:
        raise ValueError(f"groups is {groups}; expected 1..{count}, the number of samples")
    return np.minimum(np.arange(count) // (count // groups), groups - 1).astype(np.int32)


CURRICULA: dict[str, Callable[..., Ids]] = {
    "grouped": grouped,
    "easy_to_hard": easy_to_hard,
    "hard_to_easy": hard_to_easy,
    "shuffled": shuffled,
    "self_paced": self_paced,
}
"""Names of ``selection.curriculum``. `minirec.config.choices` reads them here."""
