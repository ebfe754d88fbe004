"""Prompts without a target: the history of each user in the train split, up to its newest event.

What comes after that event is in valid or test, or not known. Only the train split is read, so that
no event of valid or test can enter.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minirec.corpus.table import Sample
from minirec.rng import seed_of
from minirec.store.tables import read_table

NO_TARGET = -1
"""The target of a sample without one."""


def newest_samples(corpus: Path) -> NDArray[np.int64]:
    """The sample_id of the last train sample of each user (U,), ascending."""
    table = read_table(corpus / "train.parquet", ["sample_id", "user", "time"])
    user = table["user"].combine_chunks().dictionary_encode().indices.to_numpy()
    ids, time = (table[name].to_numpy() for name in ("sample_id", "time"))
    order = np.lexsort((ids, time, user))
    last = np.r_[user[order][1:] != user[order][:-1], True]
    return np.sort(ids[order][last]).astype(np.int64)


def without_target(sample: Sample, *, longest: int | None) -> Sample:
    """The prompt after a user's last train sample: its target joins the history.

    So do the items of the same time, which are in the train split too. The id is negative and
    belongs to this prompt alone.

    Args:
        longest: most events of a history; None: all.
    """
    history = [*sample.history, *sample.same_time, sample.target]
    kept = history if longest is None else history[-longest:]
    return Sample(-2 - sample.sample_id, kept, NO_TARGET)


def turns(users: int, places: Iterable[int], *, seed: int) -> list[int]:
    """The users 0..users - 1 that have some of the places 0, 1, ... of a training.

    Each round has every user once, in an order that the seed and the number of the round decide.
    """
    both = (divmod(place, users) for place in places)
    return [int(_round(users, number, seed)[at]) for number, at in both]


@lru_cache(maxsize=2)  # a step can end one round and begin the next
def _round(users: int, number: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed_of(seed, "unlabelled", number)).permutation(users)
