"""The first events of a corpus as its settings read them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files import times
from minirec.corpus.files.event_types import DROPPED
from minirec.corpus.files.parse import parse_rows
from minirec.corpus.files.rows import read_rows
from minirec.corpus.files.sources import Located, locate
from minirec.corpus.files.spec import FileSpec
from minirec.corpus.ids import WHOLE

MOST_EVENTS, MOST_ITEMS = 20_000, 100_000


@dataclass(frozen=True)
class Preview:
    """The first events.

    Attributes:
        located: the files and columns.
        events: user, item, time in ms since 1970 (None without times) and rating of good rows.
        titles: title by item, of the first entries of the catalogue.
        rows: number of rows that were read.
        rejected: how many rows cannot be read, by reason.
        notes: how numbers were read as times.
    """

    located: Located
    events: list[tuple[str, str, int | None, float]]
    titles: dict[str, str]
    rows: int
    rejected: Counter[str]
    notes: list[str]


def preview(corpus: CorpusConfig) -> Preview:
    """Read the first rows by these settings; raises `CorpusError` as `locate`."""
    located = locate(corpus)
    rejected: Counter[str] = Counter()
    good, numbers, rows = [], [], 0
    for spec in located.events:
        for row in _rows(spec, MOST_EVENTS - rows):
            rows += 1
            if row["reason"] is not None:
                rejected[row["reason"]] += 1
                continue
            time = row["time"] if "time" in spec.columns else None
            numbers.append(np.nan if row["number"] is None else row["number"])
            good.append((row["user"], row["item"], time, row["rating"]))
    rejected.pop(DROPPED, None)
    notes: list[str] = []
    if good and good[0][2] is not None:
        ms, number = np.array([one[2] for one in good], np.int64), np.array(numbers)
        seen = times.Seen.of(ms, number)
        settled = times.settle(seen.reading, ms, number)
        good = [(u, i, int(t), r) for (u, i, _, r), t in zip(good, settled.ms, strict=True)]
        notes = seen.notes()
    good = [(_whole(user), _whole(item), time, rating) for user, item, time, rating in good]
    titles: dict[str, str] = {}
    for spec in located.items:
        for row in _rows(spec, MOST_ITEMS):
            if row["reason"] is None:
                titles.setdefault(_whole(row["key"]), row["title"])
    return Preview(located, good, titles, rows, rejected, notes)


def _whole(text: str) -> str:
    """``1`` for ``1.0``, as the reader makes ids of all files alike; see `minirec.corpus.ids`."""
    return re.sub(WHOLE, r"\1", text)


def _rows(spec: FileSpec, most: int) -> list[dict]:
    """The first rows of a file, parsed."""
    return parse_rows(itertools.islice(read_rows(spec), max(0, most)), spec).to_pylist()
