"""Counts that include events after training, so that a policy need not be trained again.

Evaluation never uses them: they hold the targets of valid and test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.corpus.events import encode
from minirec.corpus.table import load_catalogue
from minirec.prior.counts import Counts, Words
from minirec.store.tables import read_table

SPLITS = ("train", "valid", "test")
COLUMNS = ["user", "history", "history_time", "target", "time"]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class NewEvents:
    """N events of files, in the order of the files.

    user: (N,) ids as in the corpus. item: (N,) int64 item ids. time: (N,) int64 as in the corpus,
    or None where only the order counts; all events then follow those of the corpus.
    """

    user: pa.ChunkedArray
    item: Integers
    time: Integers | None


@dataclass(frozen=True)
class Added:
    """How many events were added, how many the corpus or the files held already, and of how many
    users the added ones are, of which `new_users` have no event in the corpus."""

    events: int
    known: int
    users: int
    new_users: int


@dataclass(frozen=True)
class _Stream:
    """E events, the events of a user's sample oldest first. All are (E,) int64."""

    user: Integers
    item: Integers
    time: Integers

    def take(self, rows: NDArray) -> _Stream:
        return _Stream(self.user[rows], self.item[rows], self.time[rows])


def refreshed(
    corpus: Path, new: NewEvents, *, same_time: str, min_history: int
) -> tuple[Counts, Added]:
    """The counts of all events of a corpus folder (train, valid and test) and of new events.

    A new event is a transition from the last event of its user before it, as in the samples of the
    corpus (`corpus.same_time`, `corpus.min_history`). An event that is there already (same user,
    item and time) is counted once.
    """
    table = pa.concat_tables([read_table(corpus / f"{split}.parquet", COLUMNS) for split in SPLITS])
    titles = load_catalogue(corpus).titles
    both = pa.chunked_array([*table["user"].chunks, *new.user.chunks], pa.string())
    code = encode(both)[0]
    of_table, of_new = code[: len(table)], code[len(table) :]
    old, last, target = _stream(table, of_table)
    time = new.time
    if time is None:
        time = old.time.max(initial=0) + 1 + np.arange(len(of_new))
    own = old.take(np.isin(old.user, of_new))
    steps, kept = _transitions(
        own, _Stream(of_new, new.item, time), same_time=same_time, min_history=min_history
    )
    items = len(titles)
    pair = np.unique(np.concatenate([old.user * items + old.item, of_new * items + new.item]))
    counts = Counts.of(
        user=pair // items,
        item=pair % items,
        last=np.concatenate([last, steps[0]]),
        target=np.concatenate([target, steps[1]]),
        words=Words.of(titles),
    )
    users = np.unique(of_new[kept])
    strangers = int((~np.isin(users, of_table)).sum())
    return counts, Added(len(kept), len(of_new) - len(kept), len(users), strangers)


def _stream(table: pa.Table, user: Integers) -> tuple[_Stream, Integers, Integers]:
    """Each history entry and target of M samples, and last history item and target (M,)."""
    history = table["history"].combine_chunks()
    past = history.flatten().to_numpy().astype(np.int64)
    then = table["history_time"].combine_chunks().flatten().to_numpy().astype(np.int64)
    size = history.value_lengths().to_numpy().astype(np.int64) + 1
    ends = np.cumsum(size) - 1
    is_past = np.ones(size.sum(), bool)
    is_past[ends] = False
    item, time = np.empty(len(is_past), np.int64), np.empty(len(is_past), np.int64)
    item[is_past], item[ends] = past, table["target"].to_numpy()
    time[is_past], time[ends] = then, table["time"].to_numpy()
    return _Stream(np.repeat(user, size), item, time), item[ends - 1], item[ends]


def _transitions(
    own: _Stream, new: _Stream, *, same_time: str, min_history: int
) -> tuple[tuple[Integers, Integers], Integers]:
    """Last and target item of each transition to a new event, and the rows of `new` that count.

    `own` are the events of the same users in the corpus, with repetitions.
    """
    held = len(own.user)
    s = _Stream(*(np.concatenate([getattr(own, n), getattr(new, n)]) for n in own.__dict__))
    row = np.arange(len(s.user))
    order = np.lexsort((row, s.item, s.time, s.user))
    same = np.ones(max(0, len(order) - 1), bool)
    for column in (s.user, s.time, s.item):
        same &= column[order][1:] == column[order][:-1]
    row = np.sort(order[np.r_[True, ~same][: len(order)]])
    row = row[np.lexsort((row, s.time[row], s.user[row]))]
    s = s.take(row)
    place = np.arange(len(row))
    new_user = np.r_[True, s.user[1:] != s.user[:-1]][: len(row)]
    new_visit = new_user | np.r_[True, s.time[1:] != s.time[:-1]][: len(row)]
    first = np.maximum.accumulate(np.where(new_user, place, 0))
    end = np.maximum.accumulate(np.where(new_visit, place, 0)) if same_time == "exclude" else place
    chosen = np.flatnonzero((row >= held) & (end - first >= min_history))
    return (s.item[end[chosen] - 1], s.item[chosen]), np.sort(row[row >= held]) - held
