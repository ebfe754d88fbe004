"""Appends later events to a prepared corpus without reading the earlier ones again.

All new events are later than all events of the corpus. So the samples of the corpus stay as they
are, and the new ones follow them in time. Their histories begin with the tails of the corpus. The
borders between train, valid and test move on to the shares of ``corpus.split`` over all samples.

Known items keep their id, title, text and weight. New ones get the next ids, in the order of their
keys. So tables over items stay valid for the items that they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config.corpus import CorpusConfig
from minirec.corpus import ids, recut, weights
from minirec.corpus.assemble import Assembled, assemble
from minirec.corpus.events import CLEAN, Events
from minirec.corpus.files import times
from minirec.corpus.files.sources import Located
from minirec.corpus.filters import rated
from minirec.corpus.items import COMPACT, Items
from minirec.corpus.places import Places
from minirec.corpus.reading import Reader
from minirec.corpus.rejects import ROWS, Tally
from minirec.corpus.schema import (
    ITEMS,
    REJECTED,
    SAMPLES,
    SAMPLES_WITH_SAME_TIME,
    TAILS,
)
from minirec.corpus.split import same_time_facts
from minirec.corpus.tails import LAST_TIME, ends_of
from minirec.corpus.windows import Timeline, samples_of, timeline
from minirec.errors import CorpusError
from minirec.store.files import read_json
from minirec.store.tables import read_groups, read_table, write_batches, write_table


def read_new(folder: Path, located: Located, reader: Reader, *, own_catalogue: bool) -> Assembled:
    """Read new events and join them with the items of a corpus and those of a catalogue.

    Args:
        folder: of the corpus. Its items need no entry in the catalogue.
        located: the files of the new events.
        own_catalogue: whether the catalogue is not that of the corpus. Otherwise its rows are
            counted already, so they are neither among the rejected rows nor in the number of rows.

    Raises:
        CorpusError: a file cannot be read to its end, or no row is usable.
    """
    places = Places(spec.path for spec in (*located.events, *located.items))
    entries = reader.catalogue(located.items, places, inline=located.inline)
    catalogue = _new_entries(entries, folder)
    read = assemble(
        reader.events(located.events, places, by_file=False),
        catalogue,
        places,
        inline=located.inline,
        users=_column(folder / "tails.parquet", "user"),
    )
    if located.inline:
        return read
    rows = read.rows - len(catalogue)
    if own_catalogue:
        return replace(read, rows=rows + len(entries))
    items = replace(read.items, rejected=ROWS.empty_table())
    return replace(read, rows=rows, items=items, rejected=(Tally(), read.rejected[1]))


def _new_entries(catalogue: pa.Table, folder: Path) -> pa.Table:
    """A catalogue (`COMPACT`) with the items of a corpus in the place of its own rows of these."""
    known = read_table(folder / "items.parquet", ITEMS.names)
    both = pa.chunked_array([*known["key"].chunks, *catalogue["key"].chunks], pa.string())
    keys = catalogue["key"]
    if ids.decimals("item", ids.dotted(both), lambda bare: pc.is_in(bare, both.unique()))[0]:
        keys = ids.without_decimals(keys)
    there = pc.is_in(keys, value_set=known["key"].combine_chunks())
    columns = {
        "key": known["key"],
        "title": known["title"],
        "text": known["text"],
        "order": pa.array(np.zeros(len(known), np.int64)),
        "count": pa.array(np.ones(len(known), np.int64)),
    }
    rows = [columns.get(f.name, pa.nulls(len(known), f.type)) for f in COMPACT]
    return pa.concat_tables([pa.table(rows, schema=COMPACT), catalogue.filter(pc.invert(there))])


@dataclass(frozen=True)
class _New:
    """What the new events of a corpus add.

    samples: `SAMPLES`, or `SAMPLES_WITH_SAME_TIME`, in the order of time, user and tie. tails: of
    the users of the events, `TAILS`. users: number of users that the corpus had no event of.
    events: number of events that the settings keep. left_out: as in `split.Plan`.
    """

    samples: pa.Table
    tails: pa.Table
    users: int
    events: int
    left_out: int


def append(
    folder: Path,
    work: Path,
    read: Assembled,
    corpus: CorpusConfig,
    *,
    files: Sequence[str],
    weight: str | None = None,
) -> dict[str, Any]:
    """Write the files of a corpus with further events, all but ``corpus.json``.

    Args:
        folder: the corpus before.
        work: empty folder for the files.
        read: the new events (`read_new`).
        corpus: the settings of the corpus.
        files: names of the files of the events, for ``corpus.json``.
        weight: column of the weights of items.

    Returns:
        The content of ``corpus.json``, without ``shortcuts``.

    Raises:
        CorpusError: an event is not later than all events of the corpus.
    """
    before = read_json(folder / "corpus.json")
    rows = read.parts.ordered(["order"])
    events = Events.of(pa.concat_tables([CLEAN.empty_table(), *rows]))
    _check_later(int(events.time.min()), before[LAST_TIME], timed="order" not in corpus.columns)
    items, codes = _items(folder, read.items, events.item[rated(events, corpus)])
    new = _new(folder, events, read.items, items, corpus)
    tails = recut.merged(folder / "tails.parquet", new.tails)
    write_batches(work / "tails.parquet", TAILS, tails)
    cut = recut.write_splits(folder, work, new.samples, corpus)
    facts = {}
    if weight is not None:
        train = read_table(work / "train.parquet", ["target"])["target"].to_numpy()
        raw = read.items.table["weight"].to_numpy()[codes]
        old = read_table(folder / "items.parquet", [weight])[weight].to_numpy()
        known = weights.Facts(**before[weights.FACTS])
        counts = np.bincount(train, minlength=len(items))
        values, found = weights.extended(known, old, raw, targets=counts)
        items = items.append_column(weight, pa.array(values))
        facts = {weights.FACTS: asdict(found)}
    write_table(work / "items.parquet", items)
    rejected = chain(read_groups(folder / "rejected.parquet"), read.rejected_rows())
    write_batches(work / "rejected.parquet", REJECTED, rejected)
    added = {
        "files": list(files),
        "rows": read.rows,
        "events": new.events,
        "users": new.users,
        "items": len(codes),
        "samples": len(new.samples),
    }
    summary = before | {
        "rows": before["rows"] + read.rows,
        "notes": list(dict.fromkeys([*before["notes"], *read.notes])),
        "events": before["events"] + new.events,
        "users": before["users"] + new.users,
        "items": len(items),
        "samples": cut.samples,
        "rejected": _sum(before["rejected"], read.counts()),
        "same_time": same_time_facts(
            corpus.same_time, cut.shared, before["same_time"]["left_out"] + new.left_out
        ),
        LAST_TIME: int(events.time.max()),
        "appended": [*before.get("appended", []), added],
    }
    return summary | facts | _days(before, new.samples)


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Rejected rows by reason, most frequent first."""
    return (Tally(Counter(one)) + Tally(Counter(other))).by_reason()


def _column(path: Path, name: str) -> pa.ChunkedArray:
    groups = [group[name] for group in read_groups(path, [name])]
    return pa.chunked_array([chunk for group in groups for chunk in group.chunks], pa.string())


def _check_later(first: int, last: int, *, timed: bool) -> None:
    if first > last:
        return
    shown = times.moment if timed else str
    raise CorpusError(
        f"the first new event is at {shown(first)}, and the corpus has events up to {shown(last)}; "
        f"append only later events, or prepare all of them together (corpus.ratings, --overwrite)"
    )


def _items(folder: Path, items: Items, used: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """The items of the corpus and then the new ones, `ITEMS`; rows of the new ones in `items`.

    `used`: rows in `items` of the events that stay.
    """
    known = read_table(folder / "items.parquet", ITEMS.names)
    keys = items.table["key"]
    there = pc.is_in(keys, value_set=known["key"].combine_chunks())
    occurring = np.zeros(len(items), bool)
    occurring[used] = True
    codes = np.flatnonzero(occurring & ~there.to_numpy())  # ascending by key
    chosen = items.table.take(pa.array(codes))
    number = pa.array(np.arange(len(known), len(known) + len(codes)), pa.int32())
    columns = [number, chosen["key"], chosen["title"], chosen["text"]]
    new = pa.table(columns, names=ITEMS.names).cast(ITEMS)
    return pa.concat_tables([known.cast(ITEMS), new]), codes


def _new(
    folder: Path, events: Events, catalogue: Items, items: pa.Table, corpus: CorpusConfig
) -> _New:
    """Samples and tails of the new events that stay; `items` is the table of `_items`."""
    every = np.ones(len(catalogue), bool)
    line = timeline(events, corpus, items=every, hashes=catalogue.hashes)
    place = pc.index_in(catalogue.table["key"], value_set=items["key"].combine_chunks())
    item_id = place.fill_null(-1).to_numpy()[line.item]
    users = events.users.take(pa.array(np.unique(line.user)))
    past = recut.of_users(folder / "tails.parquet", users)
    lengths = past["history"].combine_chunks().value_lengths().to_numpy().astype(np.int64)
    owner = pc.index_in(past["user"], value_set=events.users).to_numpy().astype(np.int64)
    further = np.zeros(len(events.users), np.int64)
    further[owner] = past["events"].to_numpy() - lengths
    user = np.concatenate([np.repeat(owner, lengths), line.user])
    order = np.argsort(user, kind="stable")  # the tail of a user, then the new events

    def both(column: str, new: np.ndarray) -> np.ndarray:
        old = past[column].combine_chunks().flatten().to_numpy()
        return np.concatenate([old, new])[order]

    item = both("history", item_id).astype(np.int32)
    rating = both("history_rating", events.rating[line.event]).astype(np.float32)
    time = both("history_time", line.time)
    row = np.arange(len(order))
    whole = Timeline.of(row, user=user[order], item=item, time=time, tie=row)
    earlier = whole.earlier + further[whole.user]
    is_new = order >= lengths.sum()
    before = earlier - (whole.event - whole.end(corpus))  # that a history can hold
    target = np.flatnonzero(is_new & (before >= corpus.min_history))
    together = whole.together[target]
    same_time = corpus.same_time == "exclude" and together.max(initial=0) > 1
    found = Events(whole.user, item, rating, time, whole.event, events.users)
    samples = samples_of(found, whole, target, corpus, item=item, same_time=same_time)
    samples = samples.take(pa.array(np.lexsort((whole.user[target], time[target]))))
    schema = SAMPLES_WITH_SAME_TIME if same_time else SAMPLES
    numbers = pa.array(np.arange(len(samples)))
    return _New(
        samples=samples.add_column(0, "sample_id", numbers).select(schema.names).cast(schema),
        tails=ends_of(
            events.users,
            user=whole.user,
            item=item,
            rating=rating,
            time=time,
            length=corpus.history,
            earlier=further[whole.user],
        ),
        users=len(users) - len(past),
        events=len(line.event),
        left_out=int((is_new & (earlier >= corpus.min_history)).sum()) - len(target),
    )


def _days(before: dict[str, Any], samples: pa.Table) -> dict[str, str]:
    """First and last day of the samples and their histories, UTC; none without times."""
    if "first_day" not in before or not len(samples):
        return {}
    first = pc.min_max(pc.list_flatten(samples["history_time"]))["min"].as_py()
    last = pc.min_max(samples["time"])["max"].as_py()
    return {
        "first_day": min(before["first_day"], times.day(first)),
        "last_day": max(before["last_day"], times.day(last)),
    }
