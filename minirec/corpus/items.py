"""The catalogue as the interactions see it: one row for each key, and what has no title."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from minirec.corpus import ids
from minirec.corpus.events import encode
from minirec.corpus.files.parse import TEXT_SHOWN, UNTITLED
from minirec.corpus.places import Places
from minirec.corpus.rejects import ROWS
from minirec.errors import CorpusError


@dataclass(frozen=True)
class Items:
    """The catalogue before it is known which items have events.

    Attributes:
        table: columns key, title, text, category and weight; V rows, ascending by key.
        untitled: keys of rejected rows, which lack only a title.
        rejected: rejected rows, `rejects.ROWS`; none where the events have the same rows.
        notes: sentences on titles that differ.
    """

    table: pa.Table
    untitled: pa.Array
    rejected: pa.Table
    notes: list[str]

    @classmethod
    def of(cls, table: pa.Table) -> Items:
        """A catalogue without rejected rows."""
        return cls(table, pa.array([], pa.string()), ROWS.empty_table(), [])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def keys(self) -> pa.Array:
        """(V,) keys of the items, ascending."""
        return self.table["key"].combine_chunks()

    @property
    def known(self) -> pa.Array:
        """All keys of the catalogue, also without a title, ascending."""
        return pa.chunked_array([self.keys, self.untitled]).unique().sort()

    @cached_property
    def hashes(self) -> np.ndarray:
        """(V,) uint64 hashes of the keys."""
        from pandas.util import hash_array

        return hash_array(self.table["key"].to_numpy(), categorize=False)

    def category(self, occurring: np.ndarray) -> str | None:
        """The most frequent category of the items of a mask (V,) bool; None without any."""
        inside = self.table["category"].filter(pa.array(occurring)).drop_null()
        names = Counter({p["values"]: p["counts"] for p in inside.value_counts().to_pylist()})
        names.pop("", None)
        return max(sorted(names), key=lambda name: names[name]) if names else None


COMPACT = pa.schema(
    [
        ("key", pa.string()),
        ("title", pa.large_string()),
        ("text", pa.large_string()),
        ("category", pa.string()),
        ("weight", pa.float64()),
        ("order", pa.int64()),
        ("count", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
"""`parse.CATALOGUE` with the place of a row as one number (`Places`), and the number of equal rows
that it stands for. All titles together may have more than 2 GiB."""


def compact(parsed: pa.Table, places: Places, *, inline: bool) -> pa.Table:
    """Parsed catalogue rows (`parse.CATALOGUE`) as `COMPACT`.

    Where the titles are in the interaction files (`inline`), equal rows become one, with the first
    place. A rejected row then only says that its key has no title.
    """
    order = pa.array(places.orders(parsed["file"], parsed["line"]))
    names = ["key", "title", "text", "category", "weight"]
    columns = [parsed[name].cast(COMPACT.field(name).type) for name in names]
    ones = pa.array(np.ones(len(parsed), np.int64))
    rows = pa.table([*columns, order, ones, parsed["reason"], parsed["raw"]], schema=COMPACT)
    return merged([rows]) if inline else rows


def merged(tables: list[pa.Table]) -> pa.Table:
    """Tables of `COMPACT` with equal rows as one; rejected rows only as keys without a title."""
    rows = pa.concat_tables([COMPACT.empty_table(), *tables])
    names = ["key", "title", "text", "category", "weight"]
    good = rows.filter(rows["reason"].is_null()).group_by(names)
    good = good.aggregate([("order", "min"), ("count", "sum")])
    nothing = [pa.nulls(len(good), pa.string())] * 2
    columns = [good[name] for name in names]
    one = pa.table([*columns, good["order_min"], good["count_sum"], *nothing], schema=COMPACT)
    keys = rows.filter(rows["reason"].is_valid())["key"].drop_null().unique()
    empty = [pa.nulls(len(keys), COMPACT.field(name).type) for name in names[1:]]
    zeros = pa.array(np.zeros(len(keys), np.int64))
    reasons = pa.array([UNTITLED] * len(keys), pa.string())
    end = [zeros, zeros, reasons, pa.nulls(len(keys), pa.string())]
    return pa.concat_tables([one, pa.table([keys, *empty, *end], schema=COMPACT)])


def spelled_items(catalogue: pa.Table, *, whole: bool, inline: bool) -> Items:
    """The catalogue with one row for each key.

    Args:
        catalogue: `COMPACT`, in any order.
        whole: whether keys such as 1.0 are written as 1.
        inline: whether it was read from the interaction files.

    Raises:
        CorpusError: a catalogue file has no rows.
    """
    if not len(catalogue) and not inline:
        raise CorpusError("the catalogue file has a header but no rows; give a file with rows")
    if whole:
        keys = ids.without_decimals(catalogue["key"])
        catalogue = catalogue.set_column(catalogue.schema.get_field_index("key"), "key", keys)
    bad = catalogue.filter(catalogue["reason"].is_valid())
    rejected = pa.table([bad["order"], bad["reason"], bad["raw"]], schema=ROWS)
    good = catalogue.filter(catalogue["reason"].is_null())
    good = good.sort_by([("key", "ascending"), ("order", "ascending")])
    if inline:
        good, notes = _most_frequent_titles(good)
        rejected = ROWS.empty_table()  # these rows are counted as events
    else:
        good, repeated = _first_of_each_key(good)
        notes, rejected = [], pa.concat_tables([rejected, repeated])
    table = good.select(["key", "title", "text", "category", "weight"])
    untitled = bad["key"].drop_null().unique()
    return Items(table.combine_chunks(), untitled, rejected, notes)


def _first_of_each_key(items: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Separate the rows that repeat a key (`rejects.ROWS`); rows are sorted by key."""
    code, _ = encode(items["key"])
    again = np.r_[False, code[1:] == code[:-1]][: len(items)]
    repeated = items.filter(pa.array(again))
    texts = [
        f"{key},{title}"[:TEXT_SHOWN]
        for key, title in zip(
            repeated["key"].to_pylist(), repeated["title"].to_pylist(), strict=True
        )
    ]
    reasons = pa.array(["duplicate item"] * len(repeated), pa.string())
    rejected = pa.table([repeated["order"], reasons, pa.array(texts, pa.string())], schema=ROWS)
    return items.filter(pa.array(~again)), rejected


def _most_frequent_titles(items: pa.Table) -> tuple[pa.Table, list[str]]:
    """For each key the first row with its most frequent title, and notes on titles that differ.

    Rows (`COMPACT`) are sorted by key and place. Of equally frequent titles the first wins.
    """
    if not len(items):
        return items, []
    code, keys = encode(items["key"])
    chosen, notes = np.empty(0, np.int64), []
    for column in ("text", "title"):  # the title last: it chooses
        value, values = encode(items[column])
        _, first, row = np.unique(
            code * len(values) + value, return_index=True, return_inverse=True
        )
        count = np.bincount(row, weights=items["count"].to_numpy())
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
