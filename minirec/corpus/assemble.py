"""Joins the parsed rows of all files into clean events, a catalogue and rejected rows.

It rejects duplicate events, and events on items that the catalogue lacks or that have no title. Its
notes say how it read ids, times, ratings and titles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus import ids
from minirec.corpus.events import CLEAN, PART, encode
from minirec.corpus.files import event_types, times
from minirec.corpus.files.parse import TEXT_SHOWN, UNTITLED
from minirec.corpus.items import Items, spelled_items
from minirec.corpus.parts import Parts
from minirec.corpus.places import Places
from minirec.corpus.rejects import (
    DUPLICATE,
    ROWS,
    Tally,
    check_rejected,
    describe,
    with_others,
)
from minirec.corpus.survey import Readings, Survey, check_whole, read_as
from minirec.errors import CorpusError


@dataclass(frozen=True)
class Assembled:
    """A clean corpus before filtering.

    Attributes:
        parts: of `CLEAN`.
        items: the catalogue.
        rows: number of rows read, good and rejected.
        rejected: rejected rows of the catalogue, and of the interactions.
        notes: sentences on what was changed or looks wrong.
        places: of the rows.
    """

    parts: Parts
    items: Items
    rows: int
    rejected: tuple[Tally, Tally]
    notes: list[str]
    places: Places

    def check_rejected(self, *, limit: float) -> None:
        """Raise `CorpusError` if more than the share `limit` of the rows was rejected."""
        check_rejected(
            self.rejected, rows=self.rows, limit=limit, notes=self.notes, places=self.places
        )

    def rejected_rows(self) -> Iterator[pa.Table]:
        """All rejected rows, `REJECTED`, by file and line."""
        if self.counts():
            rows = self.parts.changed(rejected_rows).ordered(["order"])
            yield from map(self.places.rejected, with_others(rows, self.items.rejected))

    def counts(self) -> dict[str, int]:
        """Number of rejected rows by reason, most frequent first."""
        return Tally.sum(self.rejected).by_reason()


def event_rows(parsed: pa.Table, places: Places, *, by_file: bool) -> pa.Table:
    """Parsed interactions (`parse.EVENTS`) as `PART`.

    `by_file`: the place of an event in the files replaces its time.
    """
    parsed, dropped = event_types.counted(parsed)
    order = pa.array(places.orders(parsed["file"], parsed["line"]))
    columns = {name: parsed[name] for name in ("user", "item", "rating", "time", "number")}
    if by_file:
        columns["time"] = order
    rows = pa.table([*columns.values(), order, parsed["reason"], parsed["raw"]], schema=PART)
    types = [
        {"number": number, "order": 0, "reason": event_types.DROPPED, "raw": kind}
        for kind, number in dropped.items()
    ]
    return pa.concat_tables([rows, pa.Table.from_pylist(types, PART)]) if types else rows


def assemble(
    parts: Parts,
    catalogue: pa.Table,
    places: Places,
    *,
    inline: bool,
    users: pa.ChunkedArray | None = None,
) -> Assembled:
    """Join parts of interactions (`PART`) with the catalogue (`items.COMPACT`).

    The result does not depend on the order of the rows, nor on the number of parts.

    Args:
        places: of all files.
        inline: whether the catalogue was read from the interaction files. Its rejected rows are
            then counted once, as events.
        users: ids of users that are known before, which decide too how ids are read.

    Raises:
        CorpusError: a file cannot be read to its end, or no row is usable.
    """
    survey = Survey.sum(parts.each(Survey.of))
    check_whole(survey, catalogue, places.path)
    known = {} if users is None else {"user": users}

    def occurring(name: str, asked: pa.Array) -> pa.BooleanArray:
        masks = list(parts.each(partial(_occurring, name=name, asked=asked)))
        if name in known:
            masks.append(pc.is_in(asked, known[name].unique()).to_numpy(zero_copy_only=False))
        return pa.array(np.logical_or.reduce(masks))

    notes = event_types.notes(survey.dropped, rest=survey.rows)
    seen = survey if users is None else survey.and_users(users)
    readings, spellings = read_as(seen, catalogue["key"], occurring)
    items = spelled_items(catalogue, whole=readings.whole_items, inline=inline)
    clean = parts.changed(
        partial(cleaned, readings=readings, keys=items.keys, untitled=items.untitled, inline=inline)
    ).computed()
    found = list(clean.each(_found))
    rejected = Tally.of(items.rejected), Tally.sum(one.rejected for one in found)
    notes += spellings + items.notes + survey.rating_notes() + survey.times.notes()
    if not inline:
        notes += _strays([f.stray for f in found], items.known)
    rows = survey.rows + (0 if inline else len(catalogue))
    if not sum(f.good for f in found):
        raise CorpusError(
            f"none of {rows:,} rows is usable: {describe(rejected, notes, places)}; fix the files "
            f"or the columns"
        )
    return Assembled(clean, items, rows, rejected, notes, places)


def _occurring(part: pa.Table, *, name: str, asked: pa.Array) -> np.ndarray:
    """Which of the ids occur in a column of a part: bool."""
    return pc.is_in(asked, part[name].unique()).to_numpy(zero_copy_only=False)


def cleaned(
    part: pa.Table, *, readings: Readings, keys: pa.Array, untitled: pa.Array, inline: bool
) -> pa.Table:
    """A part of the interactions (`PART`) as `CLEAN`; for the other arguments see `Items`."""
    bad = part.filter(part["reason"].is_valid())
    good = part.filter(part["reason"].is_null()) if len(bad) else part
    bad = bad.filter(pc.not_equal(bad["reason"], event_types.DROPPED))
    for name, whole in (("user", readings.whole_users), ("item", readings.whole_items)):
        if whole:
            good = _set(good, name, ids.without_decimals(good[name]))
    settled = times.settle(readings.times, good["time"].to_numpy(), good["number"].to_numpy())
    good = _set(good, "time", pa.array(settled.ms))
    good, late = _divided(good, settled.bad)
    good = _set(good, "user", _encoded(good["user"]))
    good, duplicates = _without_duplicates(good)
    found = pc.index_in(good["item"], value_set=keys)
    unknown = good.filter(found.is_null())
    titleless = pc.is_in(unknown["item"], value_set=untitled)
    stray = unknown.filter(pc.invert(titleless))
    shown = ["user", "item", "rating", "time"]
    rejected = [
        _rejected(bad, bad["reason"], bad["raw"]),
        _with_reason(late, "bad date", [*shown[:3], "number"]),
        _with_reason(duplicates, DUPLICATE, shown),
        _with_reason(unknown.filter(titleless), UNTITLED, shown),
        _with_reason(stray, UNTITLED if inline else "unknown item", shown, stray["item"]),
    ]
    known = good.filter(found.is_valid()) if found.null_count else good
    columns = [known["user"], found.drop_null(), known["rating"], known["time"], known["order"]]
    columns += [pa.nulls(len(known), pa.string())] * 3
    return pa.concat_tables([pa.table(columns, schema=CLEAN), *rejected])


def rejected_rows(clean: pa.Table) -> pa.Table:
    """The rejected rows of a part (`CLEAN`), `rejects.ROWS`."""
    return clean.filter(clean["reason"].is_valid()).select(ROWS.names)


@dataclass(frozen=True)
class _Found:
    """Of a part: number of usable rows, rejected rows, and distinct keys not in the catalogue."""

    good: int
    rejected: Tally
    stray: pa.Array


def _found(clean: pa.Table) -> _Found:
    rejected = rejected_rows(clean)
    stray = clean["stray"].drop_null().unique()
    return _Found(len(clean) - len(rejected), Tally.of(rejected), stray)


def _strays(stray: list[pa.Array], known: pa.Array) -> list[str]:
    """A note on item keys of the interactions that the catalogue lacks; `known` is sorted."""
    found = pa.chunked_array(stray).unique().sort()
    if not len(found) or not len(known):
        return []
    here, there = ids.nearest(found, known) or (found[0].as_py(), known[0].as_py())
    return [
        f"{len(found):,} items of the interactions are not in the catalogue, e.g. {here!r} here, "
        f"{there!r} there"
    ]


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """The column as codes of its sorted distinct strings."""
    codes, words = encode(column)
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), words)


def _set(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _divided(table: pa.Table, removed: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """The rows that stay and the removed ones; `removed` is (R,) bool."""
    if not removed.any():  # the usual case, which needs no copy
        return table, table.slice(0, 0)
    return table.filter(pa.array(~removed)), table.filter(pa.array(removed))


def _with_reason(
    table: pa.Table, reason: str, shown: list[str], stray: pa.ChunkedArray | None = None
) -> pa.Table:
    # The raw line is no longer in memory, so its fields are shown.
    texts = [
        ",".join("" if v is None else str(v) for v in row.values())[:TEXT_SHOWN]
        for row in table.select(shown).to_pylist()
    ]
    reasons = pa.array([reason] * len(table), pa.string())
    return _rejected(table, reasons, pa.array(texts, pa.string()), stray)


def _rejected(
    table: pa.Table,
    reason: pa.ChunkedArray | pa.Array,
    text: pa.ChunkedArray | pa.Array,
    stray: pa.ChunkedArray | None = None,
) -> pa.Table:
    nothing = [pa.nulls(len(table), CLEAN.field(name).type) for name in CLEAN.names[:4]]
    stray = pa.nulls(len(table), pa.string()) if stray is None else stray
    return pa.table([*nothing, table["order"], reason, text, stray], schema=CLEAN)


def _without_duplicates(events: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Separate the rows that repeat user, item and time of an earlier row."""
    same_if = [encode(events["user"])[0], encode(events["item"])[0], events["time"].to_numpy()]
    some = _with_equal_hash(same_if)  # few rows, which are then compared exactly
    same_if = [column[some] for column in same_if]
    order = np.lexsort((events["order"].to_numpy()[some], *same_if))
    again = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in same_if])
    repeated = np.zeros(len(events), dtype=bool)
    repeated[some[order[1:]][again]] = True
    return _divided(events, repeated)


def _with_equal_hash(columns: list[np.ndarray]) -> np.ndarray:
    """The rows of int64 columns whose hash another row has too."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    in_order = np.sort(mixed)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    return np.flatnonzero(np.isin(mixed, twice)) if len(twice) else np.empty(0, np.int64)
