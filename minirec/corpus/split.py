"""Splits samples into train, valid and test, and numbers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import Events
from minirec.corpus.filters import Kept
from minirec.corpus.items import Items
from minirec.corpus.parts import Parts
from minirec.corpus.windows import (
    ORDERED_BY,
    leave_one_out,
    timeline,
    visits_of_users,
    windows,
)
from minirec.errors import CorpusError

SPLITS = ("train", "valid", "test")
LARGEST_LISTS = 200_000_000  # entries of a part, of four bytes each


@dataclass(frozen=True)
class _Outlook:
    """What a part will hold.

    Attributes:
        events, users: that stay.
        longest: most events of a user.
        would_be: events with ``corpus.min_history`` events in front of them.
        targets: by split if `corpus.split` is leave_one_out, else all in the first.
        together: largest visit of a target, the sum over targets of the size of their visits, and
            the user with the largest.
        past: entries of all histories.
        largest: most events of a user at one time.
        visits: most times of a user with a target.
        last: the latest three times of targets, newest first, each with its number of targets.
    """

    events: int
    users: int
    longest: int
    would_be: int
    targets: tuple[int, int, int]
    together: tuple[int, int, str]
    past: int
    largest: int
    visits: int
    last: list[tuple[int, int]]


def _outlook(
    part: pa.Table, *, corpus: CorpusConfig, items: np.ndarray, hashes: np.ndarray
) -> _Outlook:
    events = Events.of(part)
    line = timeline(events, corpus, items=items, hashes=hashes)
    target = line.targets(corpus)
    together = line.together[target]
    owner = ""
    if len(target):
        owner = events.users[int(line.user[target[np.argmax(together)]])].as_py()
    of_user = np.unique(line.user, return_counts=True)[1]
    sizes = np.bincount(leave_one_out(line, target, corpus), minlength=3)
    return _Outlook(
        events=len(line.event),
        users=len(of_user),
        longest=int(of_user.max(initial=0)),
        would_be=int((line.earlier >= corpus.min_history).sum()),
        targets=tuple(sizes.tolist()),
        together=(int(together.max(initial=0)), int(together.sum()), owner),
        past=int(np.minimum(line.end(corpus) - line.first, corpus.history)[target].sum()),
        largest=int(line.together.max(initial=0)),
        visits=int(visits_of_users(line, target).max(initial=0)),
        last=last_times(line.time[target]),
    )


def last_times(time: np.ndarray) -> list[tuple[int, int]]:
    """The latest three distinct times, newest first, each with its number of entries."""
    found: list[tuple[int, int]] = []
    while len(time) and len(found) < 3:
        last = time.max()
        earlier = time[time < last]
        found.append((int(last), len(time) - len(earlier)))
        time = earlier
    return found


@dataclass(frozen=True)
class Plan:
    """What the samples of a corpus will be.

    Attributes:
        events, users: that stay after the filters.
        left_out: events that are not a target because ``corpus.same_time: exclude`` leaves fewer
            than ``corpus.min_history`` events before them.
        targets: number of samples.
        same_time: whether the samples list the other items of their visits.
        cuts: where valid and test begin.
    """

    events: int
    users: int
    left_out: int
    targets: int
    same_time: bool
    cuts: tuple[Cut, Cut]


@dataclass(frozen=True)
class Cut:
    """Where a split begins, in samples ordered by time.

    Attributes:
        at: the first possible place.
        latest: the last possible place.
        between_times: whether the place must begin a new time; if not, it is `at`.
    """

    at: int
    latest: int
    between_times: bool


def plan(parts: Parts, corpus: CorpusConfig, *, items: Items, kept: Kept) -> Plan:
    """What the samples of clean events (`events.CLEAN`) will be.

    Raises:
        CorpusError: fewer than 3 samples are left, or too few distinct times to split by time, or
            the lists of the other items of visits do not fit into memory.
    """
    look = partial(_outlook, corpus=corpus, items=kept.items, hashes=items.hashes)
    found = list(parts.each(look))
    targets = sum(sum(one.targets) for one in found)
    if targets < 3:
        raise CorpusError(_too_few(found, targets, corpus))
    same_time = corpus.same_time == "exclude" and any(one.together[0] > 1 for one in found)
    _check_room(found, corpus, same_time=same_time)
    return Plan(
        events=sum(one.events for one in found),
        users=sum(one.users for one in found),
        left_out=sum(one.would_be for one in found) - targets,
        targets=targets,
        same_time=same_time,
        cuts=_cuts(found, targets, corpus),
    )


def ordered(
    parts: Parts, corpus: CorpusConfig, *, items: Items, kept: Kept, plan: Plan
) -> Iterator[tuple[str, pa.Table]]:
    """The samples by split, time, user and tie, in batches of one split each.

    The tables have the columns of `windows` and no sample_id: the order gives it. item_id is dense
    over the items that stay, in the order of their keys.
    """
    ids = np.where(kept.items, np.cumsum(kept.items) - 1, -1).astype(np.int32)
    made = parts.changed(
        partial(windows, corpus=corpus, ids=ids, hashes=items.hashes, same_time=plan.same_time)
    )
    begins = Begins(plan.cuts)
    for batch in made.ordered(ORDERED_BY):
        stops = begins.of(batch["time"].to_numpy())
        for name, start, stop in zip(SPLITS, [0, *stops], [*stops, len(batch)], strict=True):
            if stop > start:
                yield name, batch.slice(start, stop - start)


class Begins:
    """Finds where valid and test begin in samples that come in batches, in the order of time."""

    def __init__(self, cuts: tuple[Cut, Cut]):
        self.cuts = cuts
        self.places: list[int] = []  # of the splits that have begun
        self.rows = 0
        self.last: int | None = None  # time of the row before the batch

    def of(self, time: np.ndarray) -> list[int]:
        """The rows of the next batch, times (N,), where valid and test begin; N for a split that
        begins later, 0 for one that has begun before."""
        end = self.rows + len(time)
        before = time[:1] - 1 if self.last is None else np.array([self.last])
        new = np.flatnonzero(np.diff(time, prepend=before)) + self.rows
        while len(self.places) < 2:
            cut = self.cuts[len(self.places)]
            least = max(cut.at, self.places[-1] + 1 if self.places else 0)
            place = min(cut.at, cut.latest)
            if cut.between_times:
                later = new[new >= least]
                place = min(cut.latest, int(later[0]) if len(later) else cut.latest)
            if place >= end:
                break
            self.places.append(place)
        stops = [max(0, place - self.rows) for place in self.places]
        self.rows, self.last = end, int(time[-1]) if len(time) else self.last
        return stops + [len(time)] * (2 - len(stops))


def _cuts(found: list[_Outlook], targets: int, corpus: CorpusConfig) -> tuple[Cut, Cut]:
    """Where valid and test begin."""
    if corpus.split == "leave_one_out":
        visits = max(one.visits for one in found)
        if visits < 3:
            raise CorpusError(
                f"corpus.split=leave_one_out needs users with targets at three times; the most "
                f"that a user has is {visits}; give longer histories, or shares such as "
                f"[0.8, 0.1, 0.1]"
            )
        train, valid, _ = (sum(one.targets[split] for one in found) for split in range(3))
        return Cut(train, train, False), Cut(train + valid, train + valid, False)
    last: Counter[int] = Counter()
    for one in found:
        last.update(dict(one.last))
    return cuts_by_shares(targets, corpus, newest=[last[time] for time in sorted(last)[::-1]])


def cuts_by_shares(targets: int, corpus: CorpusConfig, *, newest: Sequence[int]) -> tuple[Cut, Cut]:
    """Where valid and test begin, if shares decide.

    Args:
        targets: number of samples.
        newest: number of samples at the latest times, the latest first; three times or more, if
            there are so many.

    Raises:
        CorpusError: fewer than three times, if the cuts must be between times.
    """
    assert isinstance(corpus.split, tuple)
    train, valid, _ = split_sizes(targets, corpus.split)
    stops = train, train + valid
    # If the events of one time have a meaningful order, the cut may be inside a time.
    if corpus.same_time == "keep" and corpus.ties != "hash":
        return Cut(stops[0], stops[0], False), Cut(stops[1], stops[1], False)
    if len(newest) < 3:
        raise CorpusError(
            f"the {targets:,} samples have {len(newest)} distinct time(s), so they cannot "
            f"be split by time; give interactions over a longer time, or set corpus.same_time=keep "
            f"and corpus.ties=file to split inside a time"
        )
    # A split that would be empty begins at the last time, or the one before it.
    latest = targets - newest[0] - newest[1], targets - newest[0]
    return Cut(stops[0], latest[0], True), Cut(stops[1], latest[1], True)


def split_sizes(samples: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Samples in train, valid and test: rounded shares, at least one each."""
    valid = max(1, round(samples * shares[1]))
    test = max(1, round(samples * shares[2]))
    while samples - valid - test < 1:
        valid, test = max(1, valid - 1), max(1, test - 1)
    return samples - valid - test, valid, test


def _too_few(found: list[_Outlook], samples: int, corpus: CorpusConfig) -> str:
    """Why there are not even three samples, and what to do."""
    if corpus.same_time == "exclude" and sum(one.would_be for one in found) >= 3:
        return (
            f"{samples} sample(s) are left: the other events do not have corpus.min_history="
            f"{corpus.min_history} event(s) of their user at an earlier time, since users have up "
            f"to {max(one.largest for one in found)} events at one time; set "
            f"corpus.same_time=keep, or give times that differ"
        )
    if samples:
        return (
            f"{samples} sample(s) cannot be split into train, valid and test; give more "
            f"interactions or loosen corpus.k_core, corpus.start, corpus.end"
        )
    users = sum(one.users for one in found)
    lower = "lower min_history or " if corpus.min_history > 1 else ""
    return (
        f"no samples: the longest of {users:,} users has {max(one.longest for one in found)} "
        f"event(s), and a target needs corpus.min_history={corpus.min_history} before it; "
        f"{lower}give interactions of the same users over a longer time"
    )


def _check_room(found: list[_Outlook], corpus: CorpusConfig, *, same_time: bool) -> None:
    """Refuse lists that would not fit into the memory of the process that makes a part."""
    entries = max(one.past for one in found)
    if entries > LARGEST_LISTS:
        raise CorpusError(
            f"corpus.history={corpus.history} makes histories of {entries:,} entries for samples "
            f"that one process makes; lower it, or lower resources.corpus_mib, which makes smaller "
            f"parts"
        )
    most = max(found, key=lambda one: one.together[1])
    if not same_time or most.together[1] <= LARGEST_LISTS:
        return
    largest = max(found, key=lambda one: one.together[0])
    raise CorpusError(
        f"each sample lists the other events of its user and time, which makes "
        f"{most.together[1]:,} entries for samples that one process makes; user "
        f"{largest.together[2]} has {largest.together[0]:,} events at one time: leave out accounts "
        f"that many people share, set corpus.same_time=keep, or lower resources.corpus_mib, which "
        f"makes smaller parts"
    )


def same_time_facts(setting: str, shared: dict[str, int], left_out: int) -> dict[str, Any]:
    """The entry ``same_time`` of ``corpus.json``; `shared` counts by split the samples whose user
    has another event at the target's time, `left_out` is that of `Plan`."""
    return {"setting": setting, "shared": shared, "left_out": left_out}


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
