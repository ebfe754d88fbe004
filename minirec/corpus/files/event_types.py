"""Types of events, such as view and purchase: what ``corpus.events`` says about them.

A type is dropped, kept, or gets a rating. The parser gives a dropped event a reason, as it does to
a rejected row, but such events are only counted.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from minirec.errors import CorpusError

DROPPED = "dropped"
"""Reason of an event whose type is dropped. ``raw`` of such a row is the type."""
UNLISTED = "event type not in corpus.events"


def counted(parsed: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """`minirec.corpus.files.parse.EVENTS` without dropped events, and their number by type."""
    dropped = pc.fill_null(pc.equal(parsed["reason"], DROPPED), False)
    if not pc.any(dropped).as_py():
        return parsed, Counter()
    pairs = parsed["raw"].filter(dropped).value_counts().to_pylist()
    tally = Counter({pair["values"]: pair["counts"] for pair in pairs})
    return parsed.filter(pc.invert(dropped)), tally


def notes(tally: Counter[str], *, rest: int) -> list[str]:
    """A sentence on the dropped events by type, if there are any.

    Raises:
        CorpusError: there is no other event; `rest` is their number.
    """
    if not tally:
        return []
    types = [f"{n:,} {name}" for name, n in sorted(tally.items(), key=lambda one: (-one[1], one))]
    listed = " and ".join(filter(None, [", ".join(types[:-1]), types[-1]]))
    if not rest:
        raise CorpusError(
            f"corpus.events drops all events ({listed}); set one of the types to keep or to a "
            f"rating"
        )
    verb = "event is" if tally.total() == 1 else "events are"
    return [f"{listed} {verb} dropped (corpus.events)"]
