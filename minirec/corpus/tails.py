"""The last events of each user, to which later events are appended."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import Events
from minirec.corpus.filters import Kept
from minirec.corpus.items import Items
from minirec.corpus.parts import Parts
from minirec.corpus.schema import TAILS
from minirec.corpus.windows import ranges, timeline

LAST_TIME = "last_time"
"""Key of ``corpus.json``: the latest time of all events that could be read, also of those that the
settings drop."""


def tails(parts: Parts, corpus: CorpusConfig, items: Items, kept: Kept) -> Iterator[pa.Table]:
    """The tails of all users of clean events (`events.CLEAN`), `TAILS`, sorted by user."""
    ids = np.where(kept.items, np.cumsum(kept.items) - 1, -1).astype(np.int32)
    made = parts.changed(partial(_of_part, corpus=corpus, ids=ids, hashes=items.hashes))
    return made.ordered(["user"])


def _of_part(
    part: pa.Table, *, corpus: CorpusConfig, ids: np.ndarray, hashes: np.ndarray
) -> pa.Table:
    """The tails of a part; `ids` and `hashes` are those of `windows`."""
    events = Events.of(part)
    line = timeline(events, corpus, items=ids >= 0, hashes=hashes)
    return ends_of(
        events.users,
        user=line.user,
        item=ids[line.item],
        rating=events.rating[line.event],
        time=line.time,
        length=corpus.history,
    )


def ends_of(
    users: pa.StringArray,
    *,
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray,
    time: np.ndarray,
    length: int,
    earlier: np.ndarray | None = None,
) -> pa.Table:
    """The tails of the users of K events, `TAILS`.

    Args:
        users: ids.
        user, item, rating, time: (K,) columns of the events, sorted by user, time and tie. `user`
            is an index into `users`, `item` an item_id.
        length: number of events that a tail holds at most.
        earlier: (K,) number of further events of the user, before these; None: there are none.
    """
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]][: len(user)])
    count = np.diff(np.r_[starts, len(user)])
    kept = np.minimum(count, length)
    offsets, rows = ranges(starts + count - kept, kept)

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        return pa.ListArray.from_arrays(
            pa.array(offsets, type=pa.int32()), pa.array(values[rows], type=kind)
        )

    columns = {
        "user": users.take(pa.array(user[starts])),
        "events": pa.array(count if earlier is None else count + earlier[starts]),
        "history": lists(item, pa.int32()),
        "history_rating": lists(rating, pa.float32()),
        "history_time": lists(time, pa.int64()),
    }
    return pa.table(columns, schema=TAILS)
