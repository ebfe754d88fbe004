"""Events -> samples: time window, k-core, history window, split by global time.

All of it is vectorised over dictionary-encoded arrays. The codes are in the order of their
strings, so that ties are broken by user, then item key, by comparing integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config import CorpusConfig
from minirec.corpus.schema import SAMPLES
from minirec.errors import CorpusError


@dataclass(frozen=True)
class Events:
    """N interactions, dictionary-encoded.

    Attributes:
        user: (N,) int64, index into `users`.
        item: (N,) int64, index into `items`.
        rating: (N,) float32.
        time: (N,) int64, ms since 1970 UTC.
        users: sorted distinct user ids.
        items: sorted distinct item keys.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    users: pa.StringArray
    items: pa.StringArray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Samples:
    """The splits of a corpus.

    Attributes:
        tables: train, valid and test with schema `SAMPLES`.
        item_codes: (V,) int64, for each dense item_id its index into ``Events.items``.
        event: (S,) int64, for each sample_id the index of its target event.
        kept: events left after window, min_rating and k-core.
        users: users left.
    """

    tables: dict[str, pa.Table]
    item_codes: np.ndarray
    event: np.ndarray
    kept: int
    users: int


def encode(values: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, pa.StringArray]:
    """Strings -> (codes (N,) int64, sorted distinct strings); codes compare as their strings."""
    if not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    if isinstance(values, pa.ChunkedArray):
        # Only now: joined strings end at 2 GiB, their codes do not.
        values = values.unify_dictionaries().combine_chunks()
    words = values.dictionary
    order = pc.sort_indices(words).to_numpy()
    rank = np.empty(len(words), dtype=np.int64)
    rank[order] = np.arange(len(words))
    return rank[values.indices.to_numpy()], words.take(pa.array(order))


def k_core(user: np.ndarray, item: np.ndarray, *, k: int) -> np.ndarray:
    """Largest subset in which each user and each item has at least k events.

    Args:
        user: (N,) int codes.
        item: (N,) int codes.

    Returns:
        (N,) bool, True for kept events.
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
    """Indices of the events that window, min_rating and k-core keep, ascending, int64.

    Raises:
        CorpusError: nothing is left, or fewer than two items; the message names the setting.
    """
    if not len(events):
        raise CorpusError("no usable event; check the interactions file")
    keep = np.arange(len(events))
    if corpus.start or corpus.end:
        low = day_ms(corpus.start) if corpus.start else np.iinfo(np.int64).min
        high = day_ms(corpus.end) if corpus.end else np.iinfo(np.int64).max
        keep = keep[(events.time >= low) & (events.time < high)]
        if not len(keep):
            first, last = _day(events.time.min()), _day(events.time.max())
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


def make_samples(events: Events, corpus: CorpusConfig) -> Samples:
    """Filter the events, pair each target with its history, split by global time.

    A sample's history holds the up to ``corpus.history`` events of its user before the target,
    oldest first, in the order (time, item key). sample_id is the rank of the sample by (time,
    user, item key), so train, valid and test are consecutive ranges. item_id is dense over the
    items that keep an event, in the order of their keys.

    Raises:
        CorpusError: nothing is left, no user has enough events, or fewer than 3 samples.
    """
    keep = filter_events(events, corpus)
    keep = keep[np.lexsort((events.item[keep], events.time[keep], events.user[keep]))]
    user = events.user[keep]
    codes, item_id = np.unique(events.item[keep], return_inverse=True)
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    per_user = np.diff(np.r_[first, len(user)])
    position = np.arange(len(user)) - np.repeat(first, per_user)
    target = np.flatnonzero(position >= corpus.min_history)
    if not len(target):
        lower = "lower min_history or " if corpus.min_history > 1 else ""
        raise CorpusError(
            f"no samples: the longest of {len(first):,} users has {per_user.max()} event(s), and a "
            f"target needs corpus.min_history={corpus.min_history} before it; {lower}give "
            f"interactions of the same users over a longer time"
        )
    if len(target) < 3:
        raise CorpusError(
            f"{len(target)} sample(s) cannot be split into train, valid and test; give more "
            f"interactions or loosen corpus.k_core, corpus.start, corpus.end"
        )
    time = events.time[keep]
    target = target[np.lexsort((item_id[target], user[target], time[target]))]
    length = np.minimum(position[target], corpus.history)
    offsets = np.r_[0, np.cumsum(length)]
    # Row numbers of all histories, end to end: start of each history, repeated, plus 0,1,2,...
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    past = np.repeat(target - length, length) + within
    rating = events.rating[keep]

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        return pa.ListArray.from_arrays(
            pa.array(offsets, type=pa.int32()), pa.array(values[past], type=kind)
        )

    table = pa.table(
        {
            "sample_id": pa.array(np.arange(len(target)), type=pa.int64()),
            "user": events.users.take(pa.array(user[target])),
            "history": lists(item_id, pa.int32()),
            "history_rating": lists(rating, pa.float32()),
            "history_time": lists(time, pa.int64()),
            "target": pa.array(item_id[target], type=pa.int32()),
            "rating": pa.array(rating[target], type=pa.float32()),
            "time": pa.array(time[target], type=pa.int64()),
        },
        schema=SAMPLES,
    )
    sizes = split_sizes(len(target), corpus.split)
    starts = np.r_[0, np.cumsum(sizes)]
    names = ("train", "valid", "test")
    tables = {n: table.slice(int(starts[i]), sizes[i]) for i, n in enumerate(names)}
    return Samples(tables, codes, keep[target], len(keep), len(first))


def split_sizes(samples: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Samples in train, valid and test: rounded shares, at least one each."""
    valid = max(1, round(samples * shares[1]))
    test = max(1, round(samples * shares[2]))
    while samples - valid - test < 1:
        valid, test = max(1, valid - 1), max(1, test - 1)
    return samples - valid - test, valid, test


def _day(ms: np.integer) -> str:
    return datetime.fromtimestamp(int(ms) / 1000, tz=UTC).strftime("%Y-%m-%d")
