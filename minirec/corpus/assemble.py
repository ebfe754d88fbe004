"""Joins the parsed rows of all files into clean events, a catalogue and a list of rejected rows.

It rejects duplicate events, and events on items that the catalogue lacks or that have no title. Its
notes say how it read ids, times, ratings and titles.
"""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus import ids, quoting, times
from minirec.corpus.event_types import UNLISTED, without_dropped
from minirec.corpus.events import Events, encode
from minirec.corpus.files import UNREADABLE
from minirec.corpus.finding import natural
from minirec.corpus.parse import BAD_ORDER, OUTSIDE, TEXT_SHOWN, UNTITLED
from minirec.corpus.schema import REJECTED
from minirec.errors import CorpusError

SHOWN = 5
DUPLICATE = "duplicate event"
HINTS = {
    quoting.UNCLOSED: "double the quotes inside a quoted field, which ends at most "
    f"{quoting.MAX_JOINED_LINES} lines after the one it begins on",
    quoting.BAD: "double the quotes inside a quoted field",
    BAD_ORDER: "corpus.columns.order takes a column of whole numbers; for times set "
    "corpus.columns.time",
    "bad date": "a time is a number since 1970, a day such as 20230115, or ISO 8601",
    "is an object": "write its value alone",
    UNLISTED: "list it there with drop, keep or a rating",
}
"""What to do about reasons that end with these words."""


@dataclass(frozen=True)
class Assembled:
    """A clean corpus before filtering.

    Attributes:
        events: the usable interactions.
        catalogue: columns key, title, text, and weight, which may be null; one row for each item of
            ``events.items``, same order.
        rejected: schema `REJECTED`, ordered by file and line.
        rows: number of rows read, good and rejected, without events of a dropped type.
        category: the most frequent category of the items, or None.
        notes: sentences on what was changed or looks wrong.
        catalogue_files: paths of the catalogue; empty if the titles are in the interaction files.
    """

    events: Events
    catalogue: pa.Table
    rejected: pa.Table
    rows: int
    category: str | None
    notes: list[str]
    catalogue_files: frozenset[str]


def assemble(
    events: pa.Table, items: pa.Table, *, inline: bool, by_file: bool = False
) -> Assembled:
    """Join parsed events (`parse.EVENTS`) with the parsed catalogue (`parse.CATALOGUE`).

    The result does not depend on the order of the rows of either table.

    Args:
        inline: whether the catalogue was read from the interaction files. Its rejected rows are
            then counted once, as events.
        by_file: whether the place of an event in the files replaces its time.

    Raises:
        CorpusError: a file cannot be read to its end, or no row is usable.
    """
    _check_whole(events, items)
    events, dropped_types = without_dropped(events)
    rows = len(events) + (0 if inline else len(items))
    events, items, notes = _one_spelling(events, items)
    notes = dropped_types + notes
    rejects = [_rejected(events)] if inline else [_rejected(events), _rejected(items)]
    good_items = items.filter(items["reason"].is_null()).sort_by(
        [("key", "ascending"), ("file", "ascending"), ("line", "ascending")]
    )
    if inline:
        good_items, differing = _most_frequent_titles(good_items)
        notes += differing
    else:
        good_items, repeated = _first_of_each_key(good_items)
        rejects.append(_with_reason(repeated, "duplicate item", ["key", "title"]))
    events = _placed(events, by_file=by_file)
    good, dropped, more = _usable(events, items, good_items["key"], inline=inline)
    rejects += dropped
    notes += _ratings(events) + more
    rejected = pa.concat_tables(rejects).sort_by([("file", "ascending"), ("line", "ascending")])
    files = frozenset() if inline else frozenset(pc.unique(items["file"]).to_pylist())
    if not len(good):
        raise CorpusError(
            f"none of {rows:,} rows is usable: {describe(rejected, notes, files)}; fix the files "
            f"or the columns"
        )
    user, users = encode(good["user"])
    item, keys = encode(good["item"])
    order = pc.index_in(keys, value_set=good_items["key"].combine_chunks())
    chosen = good_items.take(order)
    encoded = Events(
        user=user,
        item=item,
        rating=good["rating"].to_numpy(),
        time=good["time"].to_numpy(),
        order=good["order"].to_numpy(),
        users=users,
        items=keys,
    )
    catalogue = chosen.select(["key", "title", "text", "weight"])
    return Assembled(encoded, catalogue, rejected, rows, _category(chosen), notes, files)


def _usable(
    events: pa.Table, items: pa.Table, titled: pa.ChunkedArray, *, inline: bool
) -> tuple[pa.Table, list[pa.Table], list[str]]:
    """Events on items with a title, the rows that are dropped (`REJECTED`), and notes."""
    good, bad, notes = _settled(events.filter(events["reason"].is_null()))
    good, duplicates = _without_duplicates(good)
    known = pc.is_in(good["item"], value_set=titled.combine_chunks())
    unknown = good.filter(pc.invert(known))
    # A rejected row keeps its key only if its title is missing.
    untitled = items.filter(items["reason"].is_valid())["key"].drop_null().combine_chunks()
    titleless = pc.is_in(unknown["item"], value_set=untitled)
    stray = unknown.filter(pc.invert(titleless))
    if not inline:
        notes += _strays(stray["item"], items["key"].drop_null())
    shown = ["user", "item", "rating", "time"]
    dropped = [
        _with_reason(bad, "bad date", [*shown[:3], "number"]),
        _with_reason(duplicates, DUPLICATE, shown),
        _with_reason(unknown.filter(titleless), UNTITLED, shown),
        _with_reason(stray, UNTITLED if inline else "unknown item", shown),
    ]
    return good if pc.all(known).as_py() else good.filter(known), dropped, notes


def counts(rejected: pa.Table) -> dict[str, int]:
    """Number of rows by reason, most frequent first."""
    tally = Counter(rejected["reason"].to_pylist())
    return dict(sorted(tally.items(), key=lambda pair: (-pair[1], pair[0])))


def describe(
    rejected: pa.Table, notes: Iterable[str] = (), catalogue_files: Collection[str] = ()
) -> str:
    """One sentence with counts of reasons, notes, hints, and five rows with file and line.

    Rows of the catalogue come first, since an item that is missing there makes events unusable.
    """
    tally = counts(rejected)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.items())
    hints = [
        f"{reason}: {hint}"
        for reason in tally
        for end, hint in HINTS.items()
        if reason.endswith(end)
    ]
    shown = "; ".join(
        f"{row['file']}:{row['line']}: {row['reason']}: {row['text']!r}"
        for row in _some_of_each(rejected, list(tally), catalogue_files)
    )
    return "; ".join([reasons, *notes, *hints, f"for example: {shown}"])


def _some_of_each(
    rejected: pa.Table, reasons: list[str], catalogue_files: Collection[str]
) -> list[dict]:
    inside = pc.is_in(rejected["file"], pa.array(list(catalogue_files), pa.string()))
    groups = [
        rejected.filter(pc.and_(side, pc.equal(rejected["reason"], reason))).slice(0, SHOWN)
        for side in (inside, pc.invert(inside))
        for reason in reasons
    ]
    rounds = itertools.zip_longest(*(group.to_pylist() for group in groups))
    return [row for one in rounds for row in one if row is not None][:SHOWN]


def check_rejected(read: Assembled, *, limit: float) -> None:
    """Raise `CorpusError` if more than the share `limit` of the rows was rejected.

    Duplicate events do not count: a second purchase on the same day is not malformed.
    """
    malformed = read.rejected.filter(pc.not_equal(read.rejected["reason"], DUPLICATE))
    if len(malformed) > limit * read.rows:
        raise CorpusError(
            f"{len(malformed):,} of {read.rows:,} rows are malformed, more than "
            f"corpus.max_rejected={limit:g} allows: "
            f"{describe(malformed, read.notes, read.catalogue_files)}; fix the rows or raise "
            f"corpus.max_rejected"
        )


def _check_whole(events: pa.Table, items: pa.Table) -> None:
    for table in (events, items):
        broken = table.filter(pc.equal(table["reason"], UNREADABLE))
        if len(broken):
            raise CorpusError(f"{broken['file'][0]} {broken['raw'][0]}")
    for table, what in ((events, "interactions"), (items, "catalogue")):
        if not len(table):
            raise CorpusError(f"the {what} file has a header but no rows; give a file with rows")


def _one_spelling(events: pa.Table, items: pa.Table) -> tuple[pa.Table, pa.Table, list[str]]:
    """Both tables with ids such as 1.0 written as 1, and notes."""
    (user,), of_users = ids.without_decimals("user", [events["user"]])
    (item, key), of_items = ids.without_decimals("item", [events["item"], items["key"]])
    for name, column in (("user", user), ("item", item)):
        events = events.set_column(events.schema.get_field_index(name), name, column)
    items = items.set_column(items.schema.get_field_index("key"), "key", key)
    return events, items, of_users + of_items


def _ratings(events: pa.Table) -> list[str]:
    outside = pc.sum(pc.equal(events["reason"], OUTSIDE)).as_py()
    if not outside:
        return []
    found = pc.min_max(events["rating"]).as_py()
    low = min(0, found["min"])
    high = max(low + 1, found["max"])
    return [
        f"{outside:,} ratings lie outside corpus.rating_range, and all ratings run from "
        f"{found['min']:g} to {found['max']:g}: if they are right, set "
        f"corpus.rating_range=[{low:g},{high:g}]"
    ]


def _strays(keys: pa.ChunkedArray, catalogue: pa.ChunkedArray) -> list[str]:
    """A note on item keys of the interactions that the catalogue lacks."""
    if not len(keys) or not len(catalogue):
        return []
    # Sorted, since the order of the rows differs between runs.
    found, known = (column.unique().sort() for column in (keys, catalogue))
    here, there = ids.nearest(found, known) or (found[0].as_py(), known[0].as_py())
    return [
        f"{len(found):,} items of the interactions are not in the catalogue, e.g. {here!r} here, "
        f"{there!r} there"
    ]


def _settled(events: pa.Table) -> tuple[pa.Table, pa.Table, list[str]]:
    """Good events with their final times, events whose number is not a time, and notes."""
    settled = times.settle(events["time"].to_numpy(), events["number"].to_numpy())
    place = events.schema.get_field_index("time")
    events = events.set_column(place, "time", pa.array(settled.ms))
    return *_divided(events, settled.bad), settled.notes


def _divided(table: pa.Table, removed: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """The rows that stay and the removed ones; `removed` is (R,) bool."""
    if not removed.any():  # the usual case, which needs no copy
        return table, table.slice(0, 0)
    return table.filter(pa.array(~removed)), table.filter(pa.array(removed))


def _rejected(table: pa.Table) -> pa.Table:
    bad = table.filter(table["reason"].is_valid())
    columns = [bad["reason"], bad["file"], bad["line"], bad["raw"]]
    return pa.table(columns, schema=REJECTED)


def _with_reason(table: pa.Table, reason: str, shown: list[str]) -> pa.Table:
    # The raw line is no longer in memory, so its fields are shown.
    texts = [
        ",".join("" if v is None else str(v) for v in row.values())[:TEXT_SHOWN]
        for row in table.select(shown).to_pylist()
    ]
    columns = [pa.array([reason] * len(table), pa.string()), table["file"], table["line"]]
    return pa.table([*columns, pa.array(texts, pa.string())], schema=REJECTED)


def _first_of_each_key(items: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Separate the rows that repeat a key; rows are sorted by key."""
    code, _ = encode(items["key"])
    return _divided(items, np.r_[False, code[1:] == code[:-1]][: len(items)])


def _placed(events: pa.Table, *, by_file: bool) -> pa.Table:
    """Append ``order``, the rank of a row by file and line; `by_file` also makes it the time."""
    code, names = encode(events["file"])
    file = np.argsort(sorted(range(len(names)), key=lambda i: natural(names[i].as_py())))
    rank = np.empty(len(events), dtype=np.int64)
    rank[np.lexsort((events["line"].to_numpy(), file[code]))] = np.arange(len(events))
    order = pa.array(rank)
    if by_file:
        events = events.set_column(events.schema.get_field_index("time"), "time", order)
    return events.append_column("order", order)


def _most_frequent_titles(items: pa.Table) -> tuple[pa.Table, list[str]]:
    """For each key the first row with its most frequent title, and notes on titles that differ.

    Rows are sorted by key, file and line. Of equally frequent titles the first wins.
    """
    if not len(items):
        return items, []
    code, keys = encode(items["key"])
    chosen, notes = np.empty(0, np.int64), []
    for column in ("text", "title"):  # the title last: it chooses
        value, values = encode(items[column])
        _, first, count = np.unique(
            code * len(values) + value, return_index=True, return_counts=True
        )
        order = np.lexsort((first, -count, code[first]))
        starts = np.flatnonzero(np.r_[True, np.diff(code[first[order]]) > 0])
        chosen = first[order[starts]]
        spread = np.diff(np.r_[starts, len(order)])
        if (spread > 1).any():
            most = np.argmax(spread)
            one, other = (items[column][int(first[place])] for place in order[starts[most] :][:2])
            notes.append(
                f"{np.count_nonzero(spread > 1):,} of {len(keys):,} items have several {column}s "
                f"in the interactions, such as {keys[most]} with {_short(one)} and {_short(other)}"
            )
    if notes:
        notes.append(
            "the most frequent title of an item is taken, with the text of its row; if these are "
            "of reviews, give a catalogue (corpus.metadata) or other columns (corpus.columns)"
        )
    return items.take(pa.array(chosen)), notes


def _short(text: pa.StringScalar) -> str:
    return repr(textwrap.shorten(text.as_py(), 40, placeholder=" ..."))


def _without_duplicates(events: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Separate the rows that repeat user, item and time of an earlier row."""
    same_if = [encode(events["user"])[0], encode(events["item"])[0], events["time"].to_numpy()]
    order = np.lexsort((events["order"].to_numpy(), *same_if))
    repeated = np.zeros(len(events), dtype=bool)
    repeated[order[1:]] = np.logical_and.reduce(
        [column[order][1:] == column[order][:-1] for column in same_if]
    )
    return _divided(events, repeated)


def _category(items: pa.Table) -> str | None:
    names = Counter(name for name in items["category"].to_pylist() if name)
    return max(sorted(names), key=lambda name: names[name]) if names else None
