"""The collaborative prior: what counts and titles tell about the next item (method, section 11).

The score of an item is a0 cos(h, w_v) / tau + a1 co_v + a2 tr_v + a3 ti_v. So the policy learns
what the counts do not know. The weights are fitted by maximum likelihood: a1 to a3 before there is
a policy, and all four on validation samples after its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from minirec.corpus.table import load_catalogue
from minirec.prior.counts import PARTS, Counts, Words, rows_at_once
from minirec.prior.periods import ALL, Events, events
from minirec.store.files import read_json, write_json
from minirec.store.remote import located
from minirec.store.tables import read_table

FILE = "prior.json"
KEPT = 24
"""Periods whose counts stay in memory."""


class Asked(Protocol):
    """A sample or group: its id in the corpus, and its history."""

    @property
    def sample_id(self) -> int: ...
    @property
    def history(self) -> list[int]: ...


class Prior:
    """Prior scores of the samples of a corpus.

    Attributes:
        weights: of `PARTS`, (3,) float64.
        scale: weight a0 of the policy's own scores.
        counts: the counts for samples of a period, or `ALL`.
    """

    def __init__(self, seen: Events, words: Words, weights: Sequence[float], *, scale: float = 1):
        self.weights = np.asarray(weights, dtype=np.float64)
        self.scale = scale
        self._events = seen
        self._words = words
        self.counts = lru_cache(maxsize=KEPT)(self._count)

    @classmethod
    def load(cls, corpus: Path, folder: Path) -> Prior:
        """The prior of a corpus folder with the weights in `folder` (`save_weights`)."""
        scale, weights = weights_in(folder)
        prior = cls.of(corpus, weights)
        prior.scale = scale
        return prior

    @classmethod
    def of(cls, corpus: Path, weights: Sequence[float] = (1, 1, 1)) -> Prior:
        """The prior of a corpus folder with these weights of `PARTS`."""
        words = Words.of(load_catalogue(corpus).titles)
        return cls(load_events(corpus), words, weights)

    def reweighted(self, scale: float, weights: Sequence[float]) -> Prior:
        """The same counts with other weights."""
        other = copy(self)
        other.scale, other.weights = scale, np.asarray(weights, dtype=np.float64)
        return other

    @property
    def known(self) -> Counts:
        """The counts of the whole train split."""
        return self.counts(ALL)

    def _count(self, period: int) -> Counts:
        """The counts for samples of a period, or `ALL`."""
        pairs, samples = self._events.seen(period)
        e = self._events
        return Counts.of(
            user=e.user[pairs],
            item=e.item[pairs],
            last=e.last[samples],
            target=e.target[samples],
            words=self._words,
        )

    def sparse_parts(self, asked: Sequence[Asked]) -> tuple[sparse.csr_matrix, ...]:
        """`PARTS` for B samples, each in 0..1, from the events that a sample may use: three (B, V)
        float32."""
        periods = np.array([self.period(one.sample_id) for one in asked], dtype=np.int64)
        found = [[sparse.csr_matrix((0, self.items))] for _ in PARTS]
        order = [np.zeros(0, np.int64)]
        for period in np.unique(periods).tolist():
            order.append(np.flatnonzero(periods == period))
            parts = self.counts(period).sparse_parts(
                [asked[row].history for row in order[-1].tolist()]
            )
            for rows, part in zip(found, parts, strict=True):
                rows.append(part)
        back = np.argsort(np.concatenate(order))
        return tuple(sparse.vstack(rows).tocsr()[back].astype(np.float32) for rows in found)

    def __call__(self, asked: Sequence[Asked]) -> sparse.csr_matrix:
        """Prior scores (B, V) float32 of samples, computed in blocks that bound the memory."""
        size = rows_at_once(self.items)
        starts = range(0, max(1, len(asked)), size)
        return sparse.vstack(
            [combined(self.sparse_parts(asked[i : i + size]), self.weights) for i in starts]
        ).tocsr()

    @property
    def items(self) -> int:
        """V."""
        return int(self._words.vectors.shape[0])

    def period(self, sample_id: int) -> int:
        """The period of a sample: that of a train sample, else `ALL`."""
        # The samples of train have the lowest ids.
        train = self._events.period
        return int(train[sample_id]) if 0 <= sample_id < len(train) else ALL


def combined(parts: Sequence[sparse.csr_matrix], weights: NDArray[np.float64]) -> sparse.csr_matrix:
    """Weighted sum (B, V) float32 of the parts, each (B, V) float32."""
    first, *more = (part * np.float32(weight) for part, weight in zip(parts, weights, strict=True))
    return sum(more, start=first)


def save_weights(
    folder: Path,
    weights: Iterable[float],
    *,
    scale: float = 1,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write the weights of the policy and of `PARTS`, and facts about them, to `FILE`."""
    named = {part: float(weight) for part, weight in zip(PARTS, weights, strict=True)}
    weighed = {"policy": float(scale), **named}
    write_json(folder / FILE, {"weights": weighed, "facts": dict(facts)})


def weights_in(folder: Path | str) -> tuple[float, list[float]]:
    """The weight of the policy and the weights of `PARTS` that `save_weights` wrote."""
    weights = read_json(located(str(folder)) / FILE)["weights"]
    return weights["policy"], [weights[part] for part in PARTS]


def load_events(corpus: Path) -> Events:
    """The events of the train split of a corpus folder."""
    columns = ["user", "history", "history_time", "target", "time"]
    by_time = "first_day" in read_json(corpus / "corpus.json")
    return events(read_table(corpus / "train.parquet", columns), by_time=by_time)
