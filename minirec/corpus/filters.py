"""The filters of interactions: time window, rating, k-core."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial, reduce
from operator import add

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import Events
from minirec.corpus.files import times
from minirec.corpus.items import Items
from minirec.corpus.parts import Parts
from minirec.errors import CorpusError


def day_ms(day: str) -> int:
    """``YYYY-MM-DD`` -> ms of its start in UTC."""
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def inside(events: Events, corpus: CorpusConfig) -> np.ndarray:
    """Mask (N,) bool of the events between ``corpus.start`` and ``corpus.end``."""
    mask = np.ones(len(events), dtype=bool)
    if corpus.start:
        mask &= events.time >= day_ms(corpus.start)
    if corpus.end:
        mask &= events.time < day_ms(corpus.end)
    return mask


def rated(events: Events, corpus: CorpusConfig) -> np.ndarray:
    """Mask (N,) bool of the events that ``corpus.min_rating`` and the window keep."""
    mask = inside(events, corpus)
    return mask if corpus.min_rating is None else mask & (events.rating >= corpus.min_rating)


def kept(events: Events, corpus: CorpusConfig, items: np.ndarray) -> np.ndarray:
    """Ascending int64 indices of the events of a part that stay.

    `items`: mask (V,) bool of the items that stay, `Kept.items`.
    """
    rows = np.flatnonzero(rated(events, corpus) & items[events.item])
    user = events.user[rows]
    return rows[np.bincount(user, minlength=1)[user] >= corpus.k_core]


@dataclass(frozen=True)
class _Counts:
    """Of a part, or of several: events, those in the window and those with a sufficient rating;
    earliest and latest time, and the highest rating in the window, infinite without an event; (V,)
    events of each item, of all and of those that stay."""

    events: int
    window: int
    rated: int
    times: tuple[float, float]
    rating: float
    every: np.ndarray
    rest: np.ndarray

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(
            self.events + other.events,
            self.window + other.window,
            self.rated + other.rated,
            (min(self.times[0], other.times[0]), max(self.times[1], other.times[1])),
            max(self.rating, other.rating),
            self.every + other.every,
            self.rest + other.rest,
        )


def _counted(part: pa.Table, *, corpus: CorpusConfig, items: int) -> _Counts:
    events = Events.of(part)
    window, rest = inside(events, corpus), rated(events, corpus)
    return _Counts(
        len(events),
        int(window.sum()),
        int(rest.sum()),
        (int(events.time.min()), int(events.time.max())) if len(events) else (np.inf, -np.inf),
        float(events.rating[window].max(initial=-np.inf)),
        np.bincount(events.item, minlength=items),
        np.bincount(events.item[rest], minlength=items),
    )


def _of_core(part: pa.Table, *, corpus: CorpusConfig, items: np.ndarray) -> np.ndarray:
    """(V,) events of each item that stay in a part, if `items` stay."""
    events = Events.of(part)
    return np.bincount(events.item[kept(events, corpus, items)], minlength=len(items))


@dataclass(frozen=True)
class Kept:
    """What window, ``corpus.min_rating`` and k-core leave of a corpus with V items.

    Attributes:
        occurring: (V,) bool, items with an event before the filters.
        items: (V,) bool, items that stay.
        last: latest time of an event before the filters.
    """

    occurring: np.ndarray
    items: np.ndarray
    last: int


def filtered(parts: Parts, corpus: CorpusConfig, *, items: Items) -> Kept:
    """The items that window, ``corpus.min_rating`` and k-core keep.

    The k-core is the largest subset in which each user and item has at least k events. The events
    of an item are counted over all parts, those of a user in his part.

    Raises:
        CorpusError: no event or fewer than two items are left; the message names the setting.
    """
    found = reduce(add, parts.each(partial(_counted, corpus=corpus, items=len(items))))
    _check_filters(found, corpus)
    core = found.rest >= corpus.k_core
    while corpus.k_core > 1 and core.any():
        counts = parts.each(partial(_of_core, corpus=corpus, items=core))
        smaller = reduce(add, counts) >= corpus.k_core
        if np.array_equal(smaller, core):
            break
        core = smaller
    if not core.any():
        raise CorpusError(
            f"corpus.k_core={corpus.k_core} removes all {found.rated:,} events; lower it"
        )
    if core.sum() < 2:
        key = items.table["key"][int(np.argmax(core))]
        raise CorpusError(
            f"the catalogue has one item ({key}), so there is nothing to rank; give more "
            f"interactions or loosen the window and corpus.k_core"
        )
    return Kept(found.every > 0, core, int(found.times[1]))


def _check_filters(found: _Counts, corpus: CorpusConfig) -> None:
    """Raise `CorpusError` if the window or ``corpus.min_rating`` leaves nothing."""
    if not found.events:
        raise CorpusError("no usable event; check the interactions file")
    if not found.window:
        first, last = map(times.day, found.times)
        raise CorpusError(
            f"no event between corpus.start={corpus.start} and corpus.end={corpus.end}: "
            f"the {found.events:,} events run from {first} to {last}; widen the window"
        )
    if not found.rated:
        raise CorpusError(
            f"corpus.min_rating={corpus.min_rating:g} removes all {found.window:,} events, rated "
            f"up to {found.rating:g}; lower it"
        )
