"""Makes samples from events and splits them into train, valid and test.

The events of one user at one time are a visit. `corpus.same_time` decides whether they are in each
other's histories, `corpus.ties` how they are ordered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import Events, filter_events
from minirec.corpus.schema import SAMPLES, SAMPLES_WITH_SAME_TIME
from minirec.errors import CorpusError

SPLITS = ("train", "valid", "test")
LARGEST_LISTS = 200_000_000  # entries, of four bytes each


@dataclass(frozen=True)
class Samples:
    """The splits of a corpus.

    Attributes:
        tables: train, valid and test with schema `SAMPLES` or `SAMPLES_WITH_SAME_TIME`.
        item_codes: (V,) int64, for each dense item_id its index into ``Events.items``.
        event: (S,) int64, for each sample_id the index of its target event.
        kept: events left after window, min_rating and k-core.
        users: users left.
        same_time: split -> samples whose user has another event at the target's time.
        left_out: events that are not a target because ``corpus.same_time: exclude`` leaves fewer
            than ``corpus.min_history`` events before them.
    """

    tables: dict[str, pa.Table]
    item_codes: np.ndarray
    event: np.ndarray
    kept: int
    users: int
    same_time: dict[str, int]
    left_out: int


@dataclass(frozen=True)
class _Timeline:
    """The K kept events, sorted by user, time and tie. All attributes are (K,).

    Attributes:
        event: index into `Events`.
        user, item, time: its columns; `item` is dense over the kept items.
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


def make_samples(events: Events, corpus: CorpusConfig) -> Samples:
    """Filter the events, pair each target with its history, split.

    A history holds up to ``corpus.history`` last events of the user before the target, oldest
    first. With ``corpus.same_time: exclude`` all have an earlier time; with ``keep`` they may be
    events of the same visit that ``corpus.ties`` places before the target. sample_id is the rank of
    the sample by (split, time, user, tie). item_id is dense over the kept items, in the order of
    their keys.

    Raises:
        CorpusError: fewer than 3 samples are left, or too few distinct times to split by time.
    """
    line, codes = _timeline(events, filter_events(events, corpus), corpus.ties)
    exclude = corpus.same_time == "exclude"
    end = line.visit if exclude else np.arange(len(line.event))  # row after the history
    target = np.flatnonzero(end - line.first >= corpus.min_history)
    if len(target) < 3:
        raise CorpusError(_too_few(line, len(target), corpus))
    target = target[np.lexsort((line.tie[target], line.user[target], line.time[target]))]
    part = _parts(line, target, corpus)
    order = np.argsort(part, kind="stable")
    target, sizes = target[order], np.bincount(part, minlength=3)
    table = _table(events, line, target, end[target], corpus)
    stops = np.cumsum(sizes)
    shared = line.together[target] > 1
    slices = {
        name: slice(stop - n, stop) for name, stop, n in zip(SPLITS, stops, sizes, strict=True)
    }
    would_be = np.arange(len(line.event)) - line.first >= corpus.min_history
    return Samples(
        tables={name: table.slice(at.start, at.stop - at.start) for name, at in slices.items()},
        item_codes=codes,
        event=line.event[target],
        kept=len(line.event),
        users=len(np.unique(line.user)),
        same_time={name: int(shared[at].sum()) for name, at in slices.items()},
        left_out=int(would_be.sum()) - len(target),
    )


def _timeline(events: Events, keep: np.ndarray, ties: str) -> tuple[_Timeline, np.ndarray]:
    """The kept events in order, and the item code of each dense item_id."""
    tie = {"key": events.item, "file": events.order}.get(ties)
    tie = _hashed(events, keep) if tie is None else tie[keep]
    order = np.lexsort((tie, events.time[keep], events.user[keep]))
    keep, tie = keep[order], tie[order]
    codes, item = np.unique(events.item[keep], return_inverse=True)
    user, time = events.user[keep], events.time[keep]
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_visit = new_user | np.r_[True, time[1:] != time[:-1]]
    first, _ = _runs(new_user)
    visit, together = _runs(new_visit)
    return _Timeline(keep, user, item, time, tie, first, visit, together), codes


def _runs(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row and the length of its run; both (K,) int64."""
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.r_[starts, len(begins)])
    return np.repeat(starts, lengths), np.repeat(lengths, lengths)


def _hashed(events: Events, keep: np.ndarray) -> np.ndarray:
    """(K,) uint64 hashes of user id and item key, equal on every machine."""
    from pandas.util import hash_array

    users = hash_array(events.users.to_numpy(zero_copy_only=False), categorize=False)
    items = hash_array(events.items.to_numpy(zero_copy_only=False), categorize=False)
    # The finaliser of splitmix64 (Steele et al., 2014). A plain sum would give all users the same
    # order of items.
    mixed = users[events.user[keep]] * np.uint64(0x9E3779B97F4A7C15) + items[events.item[keep]]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _too_few(line: _Timeline, samples: int, corpus: CorpusConfig) -> str:
    """Why there are not even three samples, and what to do."""
    kept = np.count_nonzero(np.arange(len(line.event)) - line.first >= corpus.min_history)
    if corpus.same_time == "exclude" and kept >= 3:
        return (
            f"{samples} sample(s) are left: the other events do not have corpus.min_history="
            f"{corpus.min_history} event(s) of their user at an earlier time, since users have up "
            f"to {line.together.max()} events at one time; set corpus.same_time=keep, or give "
            f"times that differ"
        )
    if samples:
        return (
            f"{samples} sample(s) cannot be split into train, valid and test; give more "
            f"interactions or loosen corpus.k_core, corpus.start, corpus.end"
        )
    users = np.unique(line.user, return_counts=True)[1]
    lower = "lower min_history or " if corpus.min_history > 1 else ""
    return (
        f"no samples: the longest of {len(users):,} users has {users.max()} event(s), and a "
        f"target needs corpus.min_history={corpus.min_history} before it; {lower}give "
        f"interactions of the same users over a longer time"
    )


def _table(
    events: Events, line: _Timeline, target: np.ndarray, end: np.ndarray, corpus: CorpusConfig
) -> pa.Table:
    """The samples of the rows `target`, with histories that end before the rows `end`."""
    length = np.minimum(end - line.first[target], corpus.history)
    offsets, past = _ranges(end - length, length)
    rating = events.rating[line.event]

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        return pa.ListArray.from_arrays(
            pa.array(offsets, type=pa.int32()), pa.array(values[past], type=kind)
        )

    columns = {
        "sample_id": pa.array(np.arange(len(target)), type=pa.int64()),
        "user": events.users.take(pa.array(line.user[target])),
        "history": lists(line.item, pa.int32()),
        "history_rating": lists(rating, pa.float32()),
        "history_time": lists(line.time, pa.int64()),
        "target": pa.array(line.item[target], type=pa.int32()),
        "rating": pa.array(rating[target], type=pa.float32()),
        "time": pa.array(line.time[target], type=pa.int64()),
    }
    together = line.together[target]
    if corpus.same_time == "keep" or together.max() == 1:
        return pa.table(columns, schema=SAMPLES)
    _check_room(events, line, target)
    offsets, rows = _ranges(line.visit[target], together)
    others = rows[rows != np.repeat(target, together)]
    columns["same_time"] = pa.ListArray.from_arrays(
        pa.array(offsets - np.arange(len(offsets)), type=pa.int32()),  # each lacks its target
        pa.array(line.item[others], type=pa.int32()),
    )
    return pa.table(columns, schema=SAMPLES_WITH_SAME_TIME)


def _check_room(events: Events, line: _Timeline, target: np.ndarray) -> None:
    """Refuse visits so large that their lists of other items would not fit into memory."""
    together = line.together[target]
    if together.sum() <= LARGEST_LISTS:
        return
    largest = target[np.argmax(together)]
    raise CorpusError(
        f"each sample lists the other events of its user and time, which makes "
        f"{together.sum():,} entries in all; user {events.users[int(line.user[largest])]} has "
        f"{line.together[largest]:,} events at one time: leave out accounts that many people "
        f"share, or set corpus.same_time=keep"
    )


def _ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated ranges of rows: offsets (S + 1,) and row numbers."""
    offsets = np.r_[0, np.cumsum(length)]
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    return offsets, np.repeat(start, length) + within


def _parts(line: _Timeline, target: np.ndarray, corpus: CorpusConfig) -> np.ndarray:
    """The split of each target: (S,) 0 train, 1 valid, 2 test; targets are sorted by time."""
    if corpus.split == "leave_one_out":
        return _leave_one_out(line, target)
    sizes = split_sizes(len(target), corpus.split)
    stops = np.cumsum(sizes)[:2]
    # If the events of one time have a meaningful order, the cut may be inside a time.
    if corpus.same_time == "exclude" or corpus.ties == "hash":
        stops = _between_times(line.time[target], stops)
    return np.searchsorted(stops, np.arange(len(target)), side="right")


def _between_times(time: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Move both stops to the next start of a new time, or to an earlier one if a split is empty.

    Raises:
        CorpusError: fewer than three distinct times.
    """
    begins = np.flatnonzero(time[1:] != time[:-1]) + 1
    if len(begins) < 2:
        raise CorpusError(
            f"the {len(time):,} samples have {len(begins) + 1} distinct time(s), so they cannot "
            f"be split by time; give interactions over a longer time, or set corpus.same_time=keep "
            f"and corpus.ties=file to split inside a time"
        )
    first = min(int(np.searchsorted(begins, stops[0])), len(begins) - 2)
    second = min(max(int(np.searchsorted(begins, stops[1])), first + 1), len(begins) - 1)
    return begins[[first, second]]


def _leave_one_out(line: _Timeline, target: np.ndarray) -> np.ndarray:
    """The last time of each user is test, the one before it valid.

    Users with targets at fewer than three times are entirely in train.

    Raises:
        CorpusError: no user has targets at three times.
    """
    visits, visit = np.unique(line.visit[target], return_inverse=True)  # rising: user, then time
    owner = line.user[visits]
    starts, count = _runs(np.r_[True, owner[1:] != owner[:-1]])
    left = starts + count - 1 - np.arange(len(visits))  # times of the user after this one
    if count.max() < 3:
        raise CorpusError(
            f"corpus.split=leave_one_out needs users with targets at three times; the most that a "
            f"user has is {count.max()}; give longer histories, or shares such as [0.8, 0.1, 0.1]"
        )
    part = np.where(count < 3, 0, np.maximum(2 - left, 0))
    return part[visit]


def split_sizes(samples: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Samples in train, valid and test: rounded shares, at least one each."""
    valid = max(1, round(samples * shares[1]))
    test = max(1, round(samples * shares[2]))
    while samples - valid - test < 1:
        valid, test = max(1, valid - 1), max(1, test - 1)
    return samples - valid - test, valid, test


def same_time_facts(samples: Samples, setting: str) -> dict[str, Any]:
    """The entry ``same_time`` of ``corpus.json``."""
    return {"setting": setting, "shared": samples.same_time, "left_out": samples.left_out}


def same_time_sentences(corpus: dict[str, Any]) -> str:
    """Sentences on the samples that share their time with another event, from ``corpus.json``."""
    found = corpus["same_time"]
    shares = {
        split: found["shared"][split] / max(1, samples)
        for split, samples in corpus["samples"].items()
    }
    if not any(shares.values()) and not found["left_out"]:
        return "No sample shares its time with another event of its user."
    shared = (
        f"{shares['train']:.0%} of the train and {shares['test']:.0%} of the test samples share "
        f"their time with another event of their user."
    )
    if found["setting"] == "keep":
        return (
            f"{shared} Those before the target are in its history (corpus.same_time=keep): "
            f"the task is the next event, which may be the rest of a basket."
        )
    return (
        f"{shared} None of these is in the other's history or ranking "
        f"(corpus.same_time=exclude): the task is the next visit. {found['left_out']:,} events "
        f"with too few earlier ones are not targets."
    )
