"""Interactions of a part as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PART = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("number", pa.float64()),
        ("order", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)
"""`parse.EVENTS` with the place of a row as one number (`Places`). Events of a dropped type are one
row for each type: it has the reason `event_types.DROPPED`, the type as raw, and their number."""

CLEAN = pa.schema(
    [
        ("user", pa.dictionary(pa.int32(), pa.string())),
        ("item", pa.int32()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
        ("order", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("stray", pa.string()),
    ]
)
"""Events on items of the catalogue: item is the row of `Items.table`. A rejected row has only an
order, a reason and a text, and its item key in stray if the catalogue lacks it."""


@dataclass(frozen=True)
class Events:
    """N interactions of some users; codes sort as their strings do.

    Attributes:
        user: (N,) int64, index into `users`.
        item: (N,) int64, index into the keys of a catalogue, which ascend.
        rating: (N,) float32.
        time: (N,) int64, ms since 1970 UTC, or the numbers of ``corpus.columns.order``.
        order: (N,) int64, which orders rows by file and line.
        users: sorted distinct user ids.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    order: np.ndarray
    users: pa.StringArray

    @classmethod
    def of(cls, clean: pa.Table) -> Events:
        """The good rows of a part, `CLEAN`."""
        bad = clean["reason"].null_count < len(clean)
        good = clean.filter(clean["reason"].is_null()) if bad else clean
        user, users = encode(good["user"])
        return cls(
            user=user,
            item=good["item"].to_numpy().astype(np.int64),
            rating=good["rating"].to_numpy(),
            time=good["time"].to_numpy(),
            order=good["order"].to_numpy(),
            users=users,
        )

    def __len__(self) -> int:
        return len(self.user)

    def clean(self) -> pa.Table:
        """As `CLEAN`."""
        user = pa.DictionaryArray.from_arrays(pa.array(self.user, pa.int32()), self.users)
        columns = [user, pa.array(self.item, pa.int32()), self.rating, self.time, self.order]
        nothing = [pa.nulls(len(self), pa.string())] * 3
        return pa.table([*map(pa.array, columns), *nothing], schema=CLEAN)


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
