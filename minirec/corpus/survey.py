"""What all interactions together say: how ids and times are read, and what looks wrong.

A part of the rows is surveyed by itself, and surveys can be added. So no process holds all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus import ids
from minirec.corpus.events import PART
from minirec.corpus.files import times
from minirec.corpus.files.event_types import DROPPED
from minirec.corpus.files.parse import OUTSIDE, UNREADABLE
from minirec.errors import CorpusError


@dataclass(frozen=True)
class Survey:
    """Of a part of the interactions, or of all.

    Attributes:
        rows: number of rows, good and rejected, without events of a dropped type.
        dropped: number of events of each dropped type.
        users, items: ids of digits and dots, such as ``1.0``; distinct within each part.
        times: the numbers of good rows.
        outside: ratings outside their range.
        ratings: lowest and highest rating, also of those outside; infinite if there is none.
        broken: why files cannot be read to their ends: (order, message).
    """

    rows: int
    dropped: Counter[str]
    users: pa.ChunkedArray
    items: pa.ChunkedArray
    times: times.Seen
    outside: int
    ratings: tuple[float, float]
    broken: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, part: pa.Table) -> Survey:
        """Of a part, `events.PART`."""
        good = part.filter(part["reason"].is_null())
        types = part.filter(pc.equal(part["reason"], DROPPED))
        dropped: Counter[str] = Counter()
        for kind, number in zip(types["raw"].to_pylist(), types["number"].to_pylist(), strict=True):
            dropped[kind] += int(number)
        broken = part.filter(pc.equal(part["reason"], UNREADABLE))
        bounds = pc.min_max(part["rating"]).as_py()
        none = bounds["min"] is None
        return cls(
            rows=len(part) - len(types),
            dropped=dropped,
            users=pa.chunked_array([ids.dotted(part["user"])]),
            items=pa.chunked_array([ids.dotted(part["item"])]),
            times=times.Seen.of(good["time"].to_numpy(), good["number"].to_numpy()),
            outside=pc.sum(pc.equal(part["reason"], OUTSIDE)).as_py() or 0,
            ratings=(float("inf"), -float("inf")) if none else (bounds["min"], bounds["max"]),
            broken=tuple(zip(broken["order"].to_pylist(), broken["raw"].to_pylist(), strict=True)),
        )

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            rows=self.rows + other.rows,
            dropped=self.dropped + other.dropped,
            users=_together(self.users, other.users),
            items=_together(self.items, other.items),
            times=self.times + other.times,
            outside=self.outside + other.outside,
            ratings=(
                min(self.ratings[0], other.ratings[0]),
                max(self.ratings[1], other.ratings[1]),
            ),
            broken=self.broken + other.broken,
        )

    @staticmethod
    def sum(surveys: Iterable[Survey]) -> Survey:
        """Of all parts; there may be none."""
        return reduce(add, surveys, Survey.of(PART.empty_table()))

    def and_users(self, users: pa.ChunkedArray) -> Survey:
        """With further ids of users."""
        return replace(self, users=_together(self.users, pa.chunked_array([ids.dotted(users)])))

    def rating_notes(self) -> list[str]:
        """A sentence on ratings outside their range."""
        if not self.outside:
            return []
        least, most = self.ratings
        low = min(0, least)
        high = max(low + 1, most)
        return [
            f"{self.outside:,} ratings lie outside corpus.rating_range, and all ratings run from "
            f"{least:g} to {most:g}: if they are right, set corpus.rating_range=[{low:g},{high:g}]"
        ]


@dataclass(frozen=True)
class Readings:
    """How the rows of all parts are read: whether ids such as 1.0 are written as 1, and times."""

    whole_users: bool
    whole_items: bool
    times: str


def read_as(
    survey: Survey,
    catalogue: pa.ChunkedArray,
    occurring: Callable[[str, pa.Array], pa.BooleanArray],
) -> tuple[Readings, list[str]]:
    """How to read all rows, and notes.

    Args:
        survey: of all interactions.
        catalogue: the keys of the catalogue, with nulls.
        occurring: says which of given ids occur in the column ``user`` or ``item`` of the
            interactions.
    """

    def items(bare: pa.Array) -> pa.BooleanArray:
        return pc.or_(occurring("item", bare), pc.is_in(bare, catalogue.unique()))

    dotted = _together(survey.items, pa.chunked_array([ids.dotted(catalogue)])).unique()
    names = survey.users.unique()
    users, of_users = ids.decimals("user", names, lambda bare: occurring("user", bare))
    whole, of_items = ids.decimals("item", dotted, items)
    return Readings(users, whole, survey.times.reading), of_users + of_items


def check_whole(survey: Survey, catalogue: pa.Table, files: Callable[[int], str]) -> None:
    """Raise `CorpusError` if a file cannot be read to its end, or no event was found.

    Args:
        catalogue: `items.COMPACT`.
        files: gives the path of a row by its order.
    """
    cut = catalogue.filter(pc.equal(catalogue["reason"], UNREADABLE))
    broken = [*survey.broken, *zip(cut["order"].to_pylist(), cut["raw"].to_pylist(), strict=True)]
    if broken:
        order, message = min(broken)
        raise CorpusError(f"{files(order)} {message}")
    if not survey.rows and not survey.dropped:
        raise CorpusError("the interactions file has a header but no rows; give a file with rows")


def _together(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([*one.chunks, *other.chunks], pa.string())
