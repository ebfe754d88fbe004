"""Types of events, such as view and purchase: what ``corpus.events`` says about them.

A type is dropped, kept, or gets a rating. The parser gives a dropped event a reason, as it does to
a rejected row, but it is taken out before anything else.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from minirec.errors import CorpusError

DROPPED = "dropped"
"""Reason of an event whose type is dropped. ``raw`` of such a row is the type."""
UNLISTED = "event type not in corpus.events"


def without_dropped(events: pa.Table) -> tuple[pa.Table, list[str]]:
    """Take the dropped events out of `minirec.corpus.parse.EVENTS`.

    Returns:
        The other rows in the same order, and a note with the number of dropped events by type.

    Raises:
        CorpusError: no other row is left.
    """
    dropped = pc.fill_null(pc.equal(events["reason"], DROPPED), False)
    if not pc.any(dropped).as_py():
        return events, []
    counts = pc.value_counts(events.filter(dropped)["raw"].combine_chunks())
    tally = Counter({row["values"]: row["counts"] for row in counts.to_pylist()})
    types = [f"{n:,} {name}" for name, n in sorted(tally.items(), key=lambda one: (-one[1], one))]
    listed = " and ".join(filter(None, [", ".join(types[:-1]), types[-1]]))
    if len(rest := events.filter(pc.invert(dropped))):
        verb = "event is" if tally.total() == 1 else "events are"
        return rest, [f"{listed} {verb} dropped (corpus.events)"]
    raise CorpusError(
        f"corpus.events drops all events ({listed}); set one of the types to keep or to a rating"
    )
