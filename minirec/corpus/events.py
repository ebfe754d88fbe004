"""Interactions as arrays, and their filters: time window, rating, k-core."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config.corpus import CorpusConfig
from minirec.corpus import times
from minirec.errors import CorpusError


@dataclass(frozen=True)
class Events:
    """N interactions, dictionary-encoded; codes sort as their strings do.

    Attributes:
        user: (N,) int64, index into `users`.
        item: (N,) int64, index into `items`.
        rating: (N,) float32.
        time: (N,) int64, ms since 1970 UTC, or the numbers of ``corpus.columns.order``.
        order: (N,) int64, rank by file and line.
        users: sorted distinct user ids.
        items: sorted distinct item keys.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    order: np.ndarray
    users: pa.StringArray
    items: pa.StringArray

    def __len__(self) -> int:
        return len(self.user)


def encode(values: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, pa.StringArray]:
    """N strings -> their codes, (N,) int64, and the sorted distinct strings."""
    if not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    if isinstance(values, pa.ChunkedArray):
        # An array of strings holds at most 2 GiB, so only the codes are combined.
        values = values.unify_dictionaries().combine_chunks()
    words = values.dictionary
    order = pc.sort_indices(words).to_numpy()
    rank = np.empty(len(words), dtype=np.int64)
    rank[order] = np.arange(len(words))
    return rank[values.indices.to_numpy()], words.take(pa.array(order))


def k_core(user: np.ndarray, item: np.ndarray, *, k: int) -> np.ndarray:
    """Mask (N,) bool of the largest subset in which each user and item has at least k events.

    `user` and `item` are (N,) int codes.
    """
    kept = np.arange(len(user))
    while len(kept):
        enough = (np.bincount(user[kept])[user[kept]] >= k) & (
            np.bincount(item[kept])[item[kept]] >= k
        )
        if enough.all():
            break
        kept = kept[enough]
    mask = np.zeros(len(user), dtype=bool)
    mask[kept] = True
    return mask


def day_ms(day: str) -> int:
    """``YYYY-MM-DD`` -> ms of its start in UTC."""
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def filter_events(events: Events, corpus: CorpusConfig) -> np.ndarray:
    """Ascending int64 indices of the events that window, min_rating and k-core keep.

    Raises:
        CorpusError: no event or fewer than two items are left; the message names the setting.
    """
    if not len(events):
        raise CorpusError("no usable event; check the interactions file")
    keep = np.arange(len(events))
    if corpus.start or corpus.end:
        low = day_ms(corpus.start) if corpus.start else np.iinfo(np.int64).min
        high = day_ms(corpus.end) if corpus.end else np.iinfo(np.int64).max
        keep = keep[(events.time >= low) & (events.time < high)]
        if not len(keep):
            first, last = times.day(events.time.min()), times.day(events.time.max())
            raise CorpusError(
                f"no event between corpus.start={corpus.start} and corpus.end={corpus.end}: "
                f"the {len(events):,} events run from {first} to {last}; widen the window"
            )
    if corpus.min_rating is not None:
        before = len(keep)
        keep = keep[events.rating[keep] >= corpus.min_rating]
        if not len(keep):
            raise CorpusError(
                f"corpus.min_rating={corpus.min_rating:g} removes all {before:,} events, rated "
                f"up to {events.rating.max():g}; lower it"
            )
    before = len(keep)
    keep = keep[k_core(events.user[keep], events.item[keep], k=corpus.k_core)]
    if not len(keep):
        raise CorpusError(f"corpus.k_core={corpus.k_core} removes all {before:,} events; lower it")
    if len(np.unique(events.item[keep])) < 2:
        raise CorpusError(
            f"the catalogue has one item ({events.items[int(events.item[keep[0]])]}), so there is "
            f"nothing to rank; give more interactions or loosen the window and corpus.k_core"
        )
    return keep
