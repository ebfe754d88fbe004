"""Reads the files of a corpus in this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from minirec.corpus.assemble import event_rows
from minirec.corpus.events import PART
from minirec.corpus.files.blocks import read_blocks
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.files.vectorised import parse
from minirec.corpus.items import COMPACT, compact, merged
from minirec.corpus.parts import LocalParts, Parts
from minirec.corpus.places import Places

UNPACKED = {".gz": 6.0, ".parquet": 4.0}
"""About how many bytes of text a byte of a file holds, by ending."""


class Reader(Protocol):
    """Reads and parses the files of a corpus, here or on a cluster."""

    def events(self, specs: Sequence[FileSpec], places: Places, *, by_file: bool) -> Parts:
        """The interactions, `events.PART`; `by_file` as in `assemble.event_rows`."""

    def catalogue(self, specs: Sequence[FileSpec], places: Places, *, inline: bool) -> pa.Table:
        """The catalogue, `items.COMPACT`; `inline` as in `items.compact`."""


class LocalReader:
    """Reads all files into the memory of this process, with a thread for each core."""

    def events(self, specs: Sequence[FileSpec], places: Places, *, by_file: bool) -> LocalParts:
        """See `Reader`."""
        rows = (event_rows(parsed, places, by_file=by_file) for parsed in _parsed(specs))
        return LocalParts([pa.concat_tables([PART.empty_table(), *rows])])

    def catalogue(self, specs: Sequence[FileSpec], places: Places, *, inline: bool) -> pa.Table:
        """See `Reader`."""
        rows = [compact(parsed, places, inline=inline) for parsed in _parsed(specs)]
        return merged(rows) if inline else pa.concat_tables([COMPACT.empty_table(), *rows])


def _parsed(specs: Sequence[FileSpec]) -> Iterator[pa.Table]:
    """The parsed blocks of files, in order; few of them are in memory at a time."""
    by_path = {spec.path: spec for spec in specs}
    cores = len(os.sched_getaffinity(0))
    waiting: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(cores) as threads:
        for block in (block for spec in specs for block in read_blocks(spec)):
            waiting.append(threads.submit(parse, block, by_path))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        yield from (one.result() for one in waiting)


def text_bytes(specs: Iterable[FileSpec]) -> float:
    """About how many bytes of text files hold."""
    paths = {Path(spec.path) for spec in specs}
    return sum(p.stat().st_size * UNPACKED.get(p.suffix.lower(), 1) for p in paths)
