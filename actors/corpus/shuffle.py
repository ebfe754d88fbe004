"""Reads and shuffles the files of a corpus with Ray Data.

Files are parsed in blocks, and the rows are divided by a hash of their user. Ray's object store
holds the parts, and spills them to disk. So memory follows from the size of a part and the number
of cores, not from the corpus.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext, Dataset, ExecutionResources

from minirec.corpus import ids
from minirec.corpus.assemble import event_rows
from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.files.vectorised import parse
from minirec.corpus.items import COMPACT, compact, merged
from minirec.corpus.places import Places
from minirec.corpus.reading import text_bytes

T = TypeVar("T")
SHUFFLED_BYTES = 128 << 20
"""Rows that a task of the shuffle divides among the parts."""
MERGED_AT_ONCE = 64
"""Blocks of titles in interactions that are held before equal ones become one."""
BUCKETS = 1 << 20
"""Users are divided among so many numbers, which Ray Data divides among the parts."""


class RayParts:
    """`Parts` in the object store of a Ray cluster; one block of a dataset is one part."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def each(self, function: Callable[[pa.Table], T]) -> Iterator[T]:
        """See `Parts`."""

        def pickled(part: pa.Table) -> pa.Table:
            return pa.table({"result": pa.array([pickle.dumps(function(part))], pa.binary())})

        results = self._mapped(pickled).iter_batches(batch_size=None, batch_format="pyarrow")
        for batch in results:
            for result in batch["result"] if batch.num_columns else ():
                yield pickle.loads(result.as_py())

    def changed(self, function: Callable[[pa.Table], pa.Table]) -> RayParts:
        """See `Parts`."""
        return RayParts(self._mapped(function))

    def computed(self) -> RayParts:
        """See `Parts`."""
        return RayParts(self._dataset.materialize())

    def ordered(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Parts`."""
        batches = self._dataset.sort(list(columns)).iter_batches(
            batch_size=None, batch_format="pyarrow"
        )
        yield from (batch for batch in batches if batch.num_columns)

    def _mapped(self, function: Callable[[pa.Table], pa.Table]) -> Dataset:
        return self._dataset.map_batches(
            function, batch_size=None, batch_format="pyarrow", zero_copy_batch=True
        )


class RayReader:
    """Reads and parses files in tasks of Ray; see `reading.Reader`."""

    def __init__(self, *, part_bytes: int):
        """`part_bytes`: unpacked text of a part. Its rows take about twenty times as much memory
        while they become samples.
        """
        self._part_bytes = part_bytes

    def events(self, specs: Sequence[FileSpec], places: Places, *, by_file: bool) -> RayParts:
        """See `Reader`."""

        def rows(parsed: pa.Table) -> pa.Table:
            events = event_rows(parsed, places, by_file=by_file)
            return events.append_column("bucket", pa.array(buckets(events)))

        parts = max(1, math.ceil(text_bytes(specs) / self._part_bytes))
        divided = _parsed(specs, rows).repartition(parts, keys=["bucket"])
        return RayParts(divided.drop_columns(["bucket"])).computed()

    def catalogue(self, specs: Sequence[FileSpec], places: Places, *, inline: bool) -> pa.Table:
        """See `Reader`."""
        dataset = _parsed(specs, lambda parsed: compact(parsed, places, inline=inline))
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        rows = [COMPACT.empty_table()]
        for batch in batches:
            if batch.num_columns:
                rows.append(batch)
            if inline and len(rows) > MERGED_AT_ONCE:
                rows = [merged(rows)]
        return merged(rows) if inline else pa.concat_tables(rows)


def buckets(events: pa.Table) -> np.ndarray:
    """(N,) int32 of the rows of `PART`, by a hash of the user; a rejected row gets any number.

    ``1.0`` and ``1`` are in one bucket, because they may be one user.
    """
    from pandas.util import hash_array

    user = events["user"].combine_chunks().dictionary_encode()
    words = ids.without_decimals(pa.chunked_array([user.dictionary]))
    hashed = hash_array(words.to_numpy(), categorize=False) % np.uint64(BUCKETS)
    rejected = user.indices.is_null().to_numpy(zero_copy_only=False)
    codes = pc.fill_null(user.indices, 0).to_numpy()
    of_users = hashed[codes] if len(hashed) else np.zeros(len(codes), np.uint64)
    any_number = events["order"].to_numpy() % BUCKETS
    return np.where(rejected, any_number, of_users.astype(np.int64)).astype(np.int32)


def _parsed(specs: Sequence[FileSpec], rows: Callable[[pa.Table], pa.Table]) -> Dataset:
    """``rows(parsed block)`` of all blocks of the files, in any order."""
    by_path = {spec.path: spec for spec in specs}

    def blocks(batch: pa.Table) -> Iterator[pa.Table]:
        for path in batch["file"].to_pylist():
            yield from read_blocks(by_path[path])

    # With equal CPU shares Ray would fuse both steps into one task for each file, which would parse
    # a large file on one core.
    _set_up()
    return (
        ray.data.from_items([{"file": path} for path in by_path], override_num_blocks=len(by_path))
        .map_batches(blocks, batch_size=1, batch_format="pyarrow", num_cpus=0.25)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            lambda block: rows(parse(block, by_path)),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0.7,
        )
    )


def _set_up() -> None:
    """Settings of Ray Data for the datasets that are made next."""
    context: Any = DataContext.get_current()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        # A local Ray has more slots than cores, and each task holds a part.
        limits = ExecutionResources(cpu=float(len(os.sched_getaffinity(0))))
        context.execution_options.resource_limits = limits
    # A part is one block, however large it is.
    context.target_max_block_size = None
    # Ray's default is 1 GiB, of which a task makes copies.
    context.shuffle_input_batch_bytes = SHUFFLED_BYTES
    # Without a terminal Ray writes its progress as dozens of log lines.
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
