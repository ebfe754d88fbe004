"""Which events the counts of a sample may use, so that no sample sees its own future.

The train split is cut into periods. The counts of a train sample come from events of strictly
earlier periods, as at test. So neither its own target nor a later event of its user enters.
Without times, users are divided into folds, and the counts come from the other folds (method,
section 11). Samples of valid and test use all events of the train split.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from minirec.corpus.events import encode

PERIODS = 20
FOLDS = 5
ALL = -1
"""The period of a sample whose counts use all events."""
BEFORE = -2
"""The period of events before the first sample."""
CHUNK = 1 << 19
"""Samples whose histories are read at a time. Most of their pairs repeat those of others."""
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """The N distinct pairs of user and item in the train split, and its M samples.

    user, item, when: (N,) int64; a pair has the period of its first event. last, target, period:
    (M,) int64, in file order. by_time: whether periods are times or folds of users.
    """

    user: Integers
    item: Integers
    when: Integers
    last: Integers
    target: Integers
    period: Integers
    by_time: bool

    def seen(self, period: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which pairs (N,) and which samples (M,) the counts of a period use."""
        if period == ALL:
            return np.ones(len(self.when), bool), np.ones(len(self.period), bool)
        if self.by_time:
            return self.when < period, self.period < period
        return self.when != period, self.period != period


def events(train: pa.Table, *, by_time: bool, periods: int = PERIODS) -> Events:
    """The events of a train split with schema `SAMPLES`.

    A period begins at the time of the first of every M / `periods` samples, so a time is in one
    period.
    """
    code, users = encode(train["user"])
    target = train["target"].to_numpy().astype(np.int64)
    time = train["time"].to_numpy()
    if by_time:
        starts = np.unique(np.sort(time)[np.arange(periods) * len(time) // periods])
        period = _period(time, starts)
    else:
        fold = np.array([zlib.crc32(name.encode()) % FOLDS for name in users.to_pylist()])
        period = fold[code]
    items = 1 + max(int(target.max()), pc.max(pc.list_flatten(train["history"])).as_py())
    spans = max(periods, FOLDS) - BEFORE

    # A pair and its period as one number: sorting these is much faster than sorting columns.
    def keys(user: Integers, item: Integers, when: Integers) -> Integers:
        return np.unique((user * items + item) * spans + (when - BEFORE))

    found = [keys(code, target, period)]
    last = np.empty_like(target)
    for start in range(0, len(target), CHUNK):
        rows = slice(start, start + CHUNK)
        history = train["history"][rows].combine_chunks()
        lengths = history.value_lengths().to_numpy()
        past = history.flatten().to_numpy().astype(np.int64)
        last[rows] = past[np.cumsum(lengths) - 1]
        user = np.repeat(code[rows], lengths)
        if by_time:
            then = train["history_time"][rows].combine_chunks().flatten().to_numpy()
            when = _period(then, starts)
        else:
            when = fold[user]
        found.append(keys(user, past, when))
    every = np.unique(np.concatenate(found))
    pair, when = np.divmod(every, spans)
    new = np.r_[True, pair[1:] != pair[:-1]]
    user, item = np.divmod(pair[new], items)
    return Events(user, item, when[new] + BEFORE, last, target, period, by_time)


def _period(time: Integers, starts: Integers) -> Integers:
    found = np.searchsorted(starts, time, side="right") - 1
    return np.where(found < 0, BEFORE, found)
