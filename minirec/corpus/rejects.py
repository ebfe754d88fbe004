"""Counts and examples of rejected rows, and the check of their share."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.corpus.files import quoting
from minirec.corpus.files.event_types import UNLISTED
from minirec.corpus.files.parse import BAD_ORDER
from minirec.corpus.places import Places
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

ROWS = pa.schema([("order", pa.int64()), ("reason", pa.string()), ("text", pa.string())])
"""Rejected rows: the place (`Places`), the reason, and the first 200 characters."""

Example = tuple[int, str]


@dataclass(frozen=True)
class Tally:
    """Rejected rows of a part, or of all; tallies can be added.

    Attributes:
        counts: rows by reason.
        examples: the first `SHOWN` rows of each reason: (order, text).
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: pa.Table) -> Tally:
        """Of rejected rows, `ROWS`."""
        counted = rows["reason"].value_counts().to_pylist()
        counts = Counter({pair["values"]: pair["counts"] for pair in counted})
        examples = {}
        for reason in counts:
            some = rows.filter(pc.equal(rows["reason"], reason))
            first = some.take(pc.select_k_unstable(some, SHOWN, [("order", "ascending")]))
            pairs = zip(first["order"].to_pylist(), first["text"].to_pylist(), strict=True)
            examples[reason] = list(pairs)
        return cls(counts, examples)

    def __add__(self, other: Tally) -> Tally:
        examples = {
            reason: sorted(self.examples.get(reason, []) + other.examples.get(reason, []))[:SHOWN]
            for reason in {*self.examples, *other.examples}
        }
        return Tally(self.counts + other.counts, examples)

    @staticmethod
    def sum(tallies: Iterable[Tally]) -> Tally:
        """Of all parts."""
        return reduce(add, tallies, Tally())

    def by_reason(self) -> dict[str, int]:
        """Number of rows by reason, most frequent first."""
        return dict(sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def without(self, reason: str) -> Tally:
        """The other reasons."""
        counts = Counter({name: n for name, n in self.counts.items() if name != reason})
        return Tally(counts, {name: self.examples[name] for name in counts})


def describe(sides: Sequence[Tally], notes: Iterable[str], places: Places) -> str:
    """One sentence with counts of reasons, notes, hints, and five rows with file and line.

    Args:
        sides: the rows of the catalogue first, since an item that is missing there makes events
            unusable; then the interactions.
        notes: sentences on all rows.
        places: of the rows.
    """
    tally = Tally.sum(sides).by_reason()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.items())
    hints = [
        f"{reason}: {hint}"
        for reason in tally
        for end, hint in HINTS.items()
        if reason.endswith(end)
    ]
    groups = [
        [f"{places.place(order)}: {reason}: {text!r}" for order, text in side.examples[reason]]
        for side in sides
        for reason in tally
        if reason in side.examples
    ]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    shown = "; ".join([row for row in rounds if row is not None][:SHOWN])
    return "; ".join([reasons, *notes, *hints, f"for example: {shown}"])


def check_rejected(
    sides: Sequence[Tally], *, rows: int, limit: float, notes: Iterable[str], places: Places
) -> None:
    """Raise `CorpusError` if more than the share `limit` of the `rows` was rejected.

    Duplicate events do not count: a second purchase on the same day is not malformed. For the other
    arguments see `describe`.
    """
    sides = [side.without(DUPLICATE) for side in sides]
    malformed = Tally.sum(sides).counts.total()
    if malformed > limit * rows:
        raise CorpusError(
            f"{malformed:,} of {rows:,} rows are malformed, more than "
            f"corpus.max_rejected={limit:g} allows: {describe(sides, notes, places)}; fix the rows "
            f"or raise corpus.max_rejected"
        )


def with_others(batches: Iterable[pa.Table], others: pa.Table) -> Iterator[pa.Table]:
    """Rejected rows (`ROWS`) in batches that ascend by order, with `others` in their places."""
    others = others.sort_by("order")
    order, place = others["order"].to_numpy(), 0
    for batch in batches:
        if not len(batch):
            continue
        last = batch["order"].to_numpy().max()
        end = int(np.searchsorted(order, last, side="right"))
        yield pa.concat_tables([batch, others.slice(place, end - place)]).sort_by("order")
        place = end
    yield others.slice(place)
