"""Makes samples from the events of some users: each target with its history.

The events of one user at one time are a visit. `corpus.same_time` decides whether they are in each
other's histories, `corpus.ties` how they are ordered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import Events
from minirec.corpus.filters import kept
from minirec.corpus.schema import SAMPLES_WITH_SAME_TIME

ORDERED_BY = ("split", "time", "user", "tie")
"""Columns of `windows` that order samples; their values differ."""
BEYOND_SAMPLES = ("split", "tie", "shared", "order")
"""Columns of `windows` that no sample has: the split of leave_one_out (0 to 2, else 0), the order
of the events of a visit, whether the visit has other events, and the place in the files."""


@dataclass(frozen=True)
class Timeline:
    """The K events of a part that stay, sorted by user, time and tie. All attributes are (K,).

    Attributes:
        event: index into `Events`.
        user, item, time: its columns.
        tie: order of the events of a visit.
        first: row of the user's first event.
        visit: row of the first event of the visit.
        together: number of events of the visit.
    """

    event: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    tie: np.ndarray
    first: np.ndarray
    visit: np.ndarray
    together: np.ndarray

    @classmethod
    def of(
        cls,
        event: np.ndarray,
        *,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray,
        tie: np.ndarray,
    ) -> Timeline:
        """Of events that are sorted by user, time and tie."""
        new_user = np.r_[True, user[1:] != user[:-1]][: len(user)]
        new_visit = new_user | np.r_[True, time[1:] != time[:-1]][: len(user)]
        first, _ = _runs(new_user)
        visit, together = _runs(new_visit)
        return cls(event, user, item, time, tie, first, visit, together)

    @property
    def earlier(self) -> np.ndarray:
        """Number of events of the user in front of each event."""
        return np.arange(len(self.event)) - self.first

    def end(self, corpus: CorpusConfig) -> np.ndarray:
        """The row after the history of each event, if it is a target."""
        return self.visit if corpus.same_time == "exclude" else np.arange(len(self.event))

    def targets(self, corpus: CorpusConfig) -> np.ndarray:
        """The rows with enough earlier events."""
        return np.flatnonzero(self.end(corpus) - self.first >= corpus.min_history)


def timeline(
    events: Events, corpus: CorpusConfig, *, items: np.ndarray, hashes: np.ndarray
) -> Timeline:
    """The events of a part that stay, in order.

    Args:
        items: mask (V,) bool of the items that stay.
        hashes: (V,) uint64, of the keys of the items.
    """
    keep = kept(events, corpus, items)
    tie = {"key": events.item, "file": events.order}.get(corpus.ties)
    tie = _hashed(events, keep, hashes) if tie is None else tie[keep]
    order = _sorted(events.user[keep], events.time[keep], tie)
    keep = keep[order]
    return Timeline.of(
        keep,
        user=events.user[keep],
        item=events.item[keep],
        time=events.time[keep],
        tie=tie[order],
    )


def _sorted(user: np.ndarray, time: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """The order by user, time and tie; faster than `numpy.lexsort`, whose ties are stable."""
    if not len(user):
        return np.empty(0, np.int64)
    low, high = int(time.min()), int(time.max())
    bits = (high - low).bit_length()
    if bits + int(user.max()).bit_length() > 63:
        return np.lexsort((tie, time, user))
    key = (user << bits) | (time - low)
    order = np.argsort(key)
    in_order = key[order]
    same = in_order[1:] == in_order[:-1]
    some = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
    order[some] = order[some][np.lexsort((tie[order[some]], in_order[some]))]
    return order


def _runs(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row and the length of its run; both (K,) int64."""
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.r_[starts, len(begins)])
    return np.repeat(starts, lengths), np.repeat(lengths, lengths)


def _hashed(events: Events, keep: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """(K,) int64 hashes of user id and item key, equal on every machine."""
    from pandas.util import hash_array

    users = hash_array(events.users.to_numpy(zero_copy_only=False), categorize=False)
    # The finaliser of splitmix64 (Steele et al., 2014). A plain sum would give all users the same
    # order of items.
    mixed = users[events.user[keep]] * np.uint64(0x9E3779B97F4A7C15) + hashes[events.item[keep]]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    # With the upper half of the numbers as the negative ones, the order stays that of uint64.
    return (mixed ^ np.uint64(1 << 63)).view(np.int64)


def windows(
    part: pa.Table,
    *,
    corpus: CorpusConfig,
    ids: np.ndarray,
    hashes: np.ndarray,
    same_time: bool,
) -> pa.Table:
    """The samples of a part of the clean events, without their ids, in any order.

    A history holds up to ``corpus.history`` last events of the user before the target, oldest
    first. With ``corpus.same_time: exclude`` all have an earlier time; with ``keep`` they may be
    events of the same visit that ``corpus.ties`` places before the target.

    Args:
        part: `events.CLEAN`.
        ids: (V,) int32, the item_id of each item; -1 if it does not stay.
        hashes: as in `timeline`.
        same_time: whether the samples list the other items of their visits.

    Returns:
        The columns of `SAMPLES` or `SAMPLES_WITH_SAME_TIME` but sample_id, and `BEYOND_SAMPLES`.
    """
    events = Events.of(part)
    line = timeline(events, corpus, items=ids >= 0, hashes=hashes)
    item, target = ids[line.item], line.targets(corpus)
    return samples_of(events, line, target, corpus, item=item, same_time=same_time)


def samples_of(
    events: Events,
    line: Timeline,
    target: np.ndarray,
    corpus: CorpusConfig,
    *,
    item: np.ndarray,
    same_time: bool,
) -> pa.Table:
    """The samples of some rows of a timeline, as `windows` makes them.

    Args:
        events: those of the timeline.
        target: (S,) rows.
        item: (K,) int32, item_id of each row.
        same_time: whether the samples list the other items of their visits.
    """
    end = line.end(corpus)[target]
    length = np.minimum(end - line.first[target], corpus.history)
    offsets, past = ranges(end - length, length)
    rating = events.rating[line.event]

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        return pa.ListArray.from_arrays(
            pa.array(offsets, type=pa.int32()), pa.array(values[past], type=kind)
        )

    columns = {
        "user": events.users.take(pa.array(line.user[target])),
        "history": lists(item, pa.int32()),
        "history_rating": lists(rating, pa.float32()),
        "history_time": lists(line.time, pa.int64()),
        "target": pa.array(item[target], type=pa.int32()),
        "rating": pa.array(rating[target], type=pa.float32()),
        "time": pa.array(line.time[target], type=pa.int64()),
    }
    if same_time:
        columns["same_time"] = _others(line, target, item)
    columns["split"] = pa.array(leave_one_out(line, target, corpus), type=pa.int8())
    columns["tie"] = pa.array(line.tie[target], type=pa.int64())
    columns["shared"] = pa.array(line.together[target] > 1)
    columns["order"] = pa.array(events.order[line.event[target]], type=pa.int64())
    fields = [SAMPLES_WITH_SAME_TIME.field(name) for name in columns if name not in BEYOND_SAMPLES]
    beyond = [pa.field(name, columns[name].type) for name in BEYOND_SAMPLES]
    return pa.table(columns, schema=pa.schema([*fields, *beyond]))


def _others(line: Timeline, target: np.ndarray, item: np.ndarray) -> pa.ListArray:
    """The other items of the visit of each target."""
    together = line.together[target]
    offsets, rows = ranges(line.visit[target], together)
    others = rows[rows != np.repeat(target, together)]
    # Each list lacks its target.
    offsets = pa.array(offsets - np.arange(len(offsets)), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(item[others], type=pa.int32()))


def ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated ranges of rows: offsets (S + 1,) and row numbers."""
    offsets = np.r_[0, np.cumsum(length)]
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    return offsets, np.repeat(start, length) + within


def leave_one_out(line: Timeline, target: np.ndarray, corpus: CorpusConfig) -> np.ndarray:
    """The split of each target: (S,) 0 train, 1 valid, 2 test; 0 if shares decide.

    The last time of each user is test, the one before it valid. Users with targets at fewer than
    three times are entirely in train.
    """
    if corpus.split != "leave_one_out":
        return np.zeros(len(target), dtype=np.int64)
    visits, visit = np.unique(line.visit[target], return_inverse=True)  # rising: user, then time
    owner = line.user[visits]
    starts, count = _runs(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])
    left = starts + count - 1 - np.arange(len(visits))  # times of the user after this one
    return np.where(count < 3, 0, np.maximum(2 - left, 0))[visit]


def visits_of_users(line: Timeline, target: np.ndarray) -> np.ndarray:
    """Number of times with a target of each user that has one."""
    owner = line.user[np.unique(line.visit[target])]
    return np.unique(owner, return_counts=True)[1]
