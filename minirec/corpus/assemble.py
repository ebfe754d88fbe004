"""Parsed rows of all files -> clean events, a catalogue, and the list of rejected rows.

Here the reasons are found that need more than one row: duplicate events, events on items that
the catalogue does not know, and events on items without a title.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus.events import Events, encode
from minirec.corpus.files import UNREADABLE
from minirec.corpus.parse import TEXT_SHOWN
from minirec.corpus.schema import REJECTED
from minirec.errors import CorpusError

SHOWN = 5


@dataclass(frozen=True)
class Assembled:
    """A clean corpus before filtering.

    Attributes:
        events: the usable interactions.
        catalogue: columns key, title, text; one row per item in `Events.items`, same order.
        rejected: schema `REJECTED`, ordered by file and line.
        rows: rows read, good and rejected.
        category: the most frequent category of the catalogue's items, or None.
    """

    events: Events
    catalogue: pa.Table
    rejected: pa.Table
    rows: int
    category: str | None


def assemble(
    events: pa.Table, items: pa.Table, *, inline: bool, by_file: bool = False
) -> Assembled:
    """Join parsed events (`parse.EVENTS`) with the parsed catalogue (`parse.CATALOGUE`).

    The result does not depend on the order of the rows of either table.

    Args:
        inline: the catalogue was read from the interaction files, so that its rejected rows are
            counted as events already.
        by_file: events have no times; their place in the files takes it.

    Raises:
        CorpusError: a file could not be read to its end, or no row is usable at all.
    """
    for table in (events, items):
        broken = table.filter(pc.equal(table["reason"], UNREADABLE))
        if len(broken):
            raise CorpusError(f"{broken['file'][0]} {broken['raw'][0]}")
    for table, what in ((events, "interactions"), (items, "catalogue")):
        if not len(table):
            raise CorpusError(f"the {what} file has a header but no rows; give a file with rows")
    rows = len(events) + (0 if inline else len(items))
    rejects = [_rejected(events)] if inline else [_rejected(events), _rejected(items)]
    # An item is untitled if its row says so; any other unusable row leaves it unknown.
    good_items, repeated = _first_of_each_key(items.filter(items["reason"].is_null()))
    if not inline:
        rejects.append(_with_reason(repeated, "duplicate item", ["key", "title"]))
    good = events.filter(events["reason"].is_null())
    good = good.append_column("order", _place(good))
    if by_file:
        good = good.set_column(good.schema.get_field_index("time"), "time", good["order"])
    good, duplicates = _without_duplicates(good)
    rejects.append(_with_reason(duplicates, "duplicate event", ["user", "item", "rating", "time"]))
    known = pc.is_in(good["item"], value_set=good_items["key"].combine_chunks())
    reason = "missing title" if inline else "unknown item"
    unknown = good.filter(pc.invert(known))
    untitled = _untitled_keys(items)
    titleless = pc.is_in(unknown["item"], value_set=untitled)
    for mask, why in ((titleless, "missing title"), (pc.invert(titleless), reason)):
        rejects.append(_with_reason(unknown.filter(mask), why, ["user", "item", "rating", "time"]))
    good = good if pc.all(known).as_py() else good.filter(known)
    rejected = pa.concat_tables(rejects).sort_by([("file", "ascending"), ("line", "ascending")])
    if not len(good):
        raise CorpusError(
            f"none of {rows:,} rows is usable: {describe(rejected)}; mend the files or the columns"
        )
    user, users = encode(good["user"])
    item, keys = encode(good["item"])
    order = pc.index_in(keys, value_set=good_items["key"].combine_chunks())
    catalogue = good_items.select(["key", "title", "text"]).take(order)
    encoded = Events(
        user=user,
        item=item,
        rating=good["rating"].to_numpy(),
        time=good["time"].to_numpy(),
        order=good["order"].to_numpy(),
        users=users,
        items=keys,
    )
    return Assembled(encoded, catalogue, rejected, rows, _category(good_items.take(order)))


def counts(rejected: pa.Table) -> dict[str, int]:
    """Reason -> rows, most frequent first."""
    tally = Counter(rejected["reason"].to_pylist())
    return dict(sorted(tally.items(), key=lambda pair: (-pair[1], pair[0])))


def describe(rejected: pa.Table) -> str:
    """Counts of reasons and the first five rows with file and line, as one sentence."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts(rejected).items())
    first = "; ".join(
        f"{row['file']}:{row['line']}: {row['reason']}: {row['text']!r}"
        for row in rejected.slice(0, SHOWN).to_pylist()
    )
    return f"{reasons}; the first: {first}"


def check_rejected(rejected: pa.Table, *, rows: int, limit: float) -> None:
    """Raise `CorpusError` if more than the share `limit` of `rows` was rejected."""
    if len(rejected) > limit * rows:
        raise CorpusError(
            f"{len(rejected):,} of {rows:,} rows are malformed, more than "
            f"corpus.max_rejected={limit:g} allows: {describe(rejected)}; mend the rows or raise "
            f"corpus.max_rejected"
        )


def _rejected(table: pa.Table) -> pa.Table:
    bad = table.filter(table["reason"].is_valid())
    columns = [bad["reason"], bad["file"], bad["line"], bad["raw"]]
    return pa.table(columns, schema=REJECTED)


def _with_reason(table: pa.Table, reason: str, shown: list[str]) -> pa.Table:
    # The raw line is gone by now; its fields say the same.
    texts = [
        ",".join("" if v is None else str(v) for v in row.values())[:TEXT_SHOWN]
        for row in table.select(shown).to_pylist()
    ]
    columns = [pa.array([reason] * len(table), pa.string()), table["file"], table["line"]]
    return pa.table([*columns, pa.array(texts, pa.string())], schema=REJECTED)


def _first_of_each_key(items: pa.Table) -> tuple[pa.Table, pa.Table]:
    items = items.sort_by([("key", "ascending"), ("file", "ascending"), ("line", "ascending")])
    code, _ = encode(items["key"]) if len(items) else (np.empty(0, np.int64), None)
    repeated = np.r_[False, code[1:] == code[:-1]][: len(items)]
    return items.filter(pa.array(~repeated)), items.filter(pa.array(repeated))


def _place(events: pa.Table) -> pa.Array:
    """Rank of each row by file and line, int64."""
    place = np.empty(len(events), dtype=np.int64)
    if len(events):
        by = (events["line"].to_numpy(), encode(events["file"])[0])
        place[np.lexsort(by)] = np.arange(len(events))
    return pa.array(place)


def _without_duplicates(events: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split off the rows whose user, item and time stand in an earlier file or line."""
    if not len(events):
        return events, events
    same_if = [encode(events["user"])[0], encode(events["item"])[0], events["time"].to_numpy()]
    order = np.lexsort((events["order"].to_numpy(), *same_if))
    repeated = np.zeros(len(events), dtype=bool)
    repeated[order[1:]] = np.logical_and.reduce(
        [column[order][1:] == column[order][:-1] for column in same_if]
    )
    if not repeated.any():  # the usual case needs no copy
        return events, events.slice(0, 0)
    return events.filter(pa.array(~repeated)), events.filter(pa.array(repeated))


def _untitled_keys(items: pa.Table) -> pa.Array:
    bad = items.filter(pc.equal(items["reason"], "missing title"))
    return bad["key"].drop_null().combine_chunks().cast(pa.string())


def _category(items: pa.Table) -> str | None:
    names = Counter(name for name in items["category"].to_pylist() if name)
    return max(sorted(names), key=lambda name: names[name]) if names else None
