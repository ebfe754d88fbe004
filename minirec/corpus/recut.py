"""Rewrites the splits and the tails of a corpus with new rows, one row group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config.corpus import CorpusConfig
from minirec.corpus.schema import SAMPLES, SAMPLES_WITH_SAME_TIME
from minirec.corpus.split import SPLITS, Begins, cuts_by_shares, last_times
from minirec.store.tables import open_table, read_groups, read_table, write_batches


@dataclass(frozen=True)
class SplitCounts:
    """Of each split the number of samples, and of those whose user has another event at the
    target's time."""

    samples: dict[str, int]
    shared: dict[str, int]


def write_splits(folder: Path, work: Path, new: pa.Table, corpus: CorpusConfig) -> SplitCounts:
    """Write the samples of a corpus and new ones to `work`, divided by ``corpus.split``.

    Args:
        folder: the corpus. Its splits, one after the other, are in the order of time, user and
            tie, since the shares of ``corpus.split`` cut this order.
        new: later samples in the same order.
    """
    old = [folder / f"{split}.parquet" for split in SPLITS]
    time = np.concatenate([read_table(path, ["time"])["time"].to_numpy() for path in old])
    time = np.concatenate([time, new["time"].to_numpy()])
    newest = [count for _, count in last_times(time)]
    stops = Begins(cuts_by_shares(len(time), corpus, newest=newest)).of(time)
    sizes = np.diff(np.r_[0, stops, len(time)]).tolist()
    with open_table(old[0]) as source:
        names = {*source.schema_arrow.names, *new.column_names}
    schema = SAMPLES_WITH_SAME_TIME if "same_time" in names else SAMPLES
    tables = chain(*(read_groups(path) for path in old), [new])
    shared = np.zeros(len(time), bool)
    pieces = _divided(_marking(_numbered(tables, schema), shared), sizes)
    for part, group in groupby(pieces, key=lambda piece: piece[0]):
        write_batches(work / f"{SPLITS[part]}.parquet", schema, (table for _, table in group))
    counts = np.add.reduceat(shared, [0, *stops], dtype=np.int64).tolist()
    return SplitCounts(
        dict(zip(SPLITS, sizes, strict=True)), dict(zip(SPLITS, counts, strict=True))
    )


def _numbered(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The tables with their place among all rows as sample_id, and all columns of `schema`."""
    start = 0
    for table in filter(len, tables):
        columns = {name: table[name] for name in table.column_names}
        columns["sample_id"] = pa.array(np.arange(start, start + len(table)))
        if "same_time" in schema.names and "same_time" not in columns:
            columns["same_time"] = pa.array([[]] * len(table), schema.field("same_time").type)
        start += len(table)
        yield pa.table(columns, schema=schema)


def _divided(tables: Iterable[pa.Table], sizes: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """Pieces of the tables with the number of their part; part i has `sizes[i]` > 0 rows."""
    part, left = 0, sizes[0]
    for table in tables:
        start = 0
        while start < len(table):
            if not left:
                part += 1
                left = sizes[part]
            rows = min(left, len(table) - start)
            yield part, table.slice(start, rows)
            start, left = start + rows, left - rows


def _marking(tables: Iterable[pa.Table], shared: np.ndarray) -> Iterator[pa.Table]:
    """Pass the tables on, and mark in `shared` (N,) the samples that share their time.

    Another event of the user at the target's time is a target too, and then the one before or
    after it, or the last event of the history.
    """
    last: tuple[str, int] | None = None
    for table in tables:
        row = table["sample_id"][0].as_py()
        user, time = table["user"].combine_chunks(), table["time"].to_numpy()
        history = table["history_time"].combine_chunks()
        ends = np.cumsum(history.value_lengths().to_numpy()) - 1
        here = shared[row : row + len(table)]
        here |= history.flatten().to_numpy()[ends] == time
        same = time[1:] == time[:-1]
        same &= pc.equal(user[1:], user[:-1]).to_numpy(zero_copy_only=False)
        here[1:] |= same
        here[:-1] |= same
        if last == (user[0].as_py(), time[0]):
            shared[row - 1 : row + 1] = True
        last = user[len(table) - 1].as_py(), time[-1]
        yield table


def of_users(path: Path, users: pa.StringArray) -> pa.Table:
    """The rows of a table of tails that belong to these users."""
    found = [
        group.filter(pc.is_in(group["user"], value_set=users)).combine_chunks()
        for group in read_groups(path)
    ]
    return pa.concat_tables(found)


def merged(path: Path, new: pa.Table) -> Iterator[pa.Table]:
    """The rows of a table of tails with those of `new`, which replace the rows of their users.

    Both are sorted by user, and so is the result.
    """
    names = new["user"].combine_chunks()
    order = np.array(names.to_pylist(), dtype=object)
    start = 0
    for group in read_groups(path):
        last = group["user"][len(group) - 1].as_py()
        stop = int(np.searchsorted(order, last, side="right"))
        stay = group.filter(pc.invert(pc.is_in(group["user"], value_set=names)))
        yield pa.concat_tables([stay, new.slice(start, stop - start)]).sort_by("user")
        start = stop
    yield new.slice(start)
