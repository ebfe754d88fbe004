"""The collaborative prior: what counts and titles tell about the next item (method, section 11).

The score of an item is cos(h, w_v) / tau + a1 co_v + a2 tr_v + a3 ti_v. So the policy learns what
the counts do not know. The weights a are fitted by maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from minirec.corpus.table import load_catalogue
from minirec.prior.counts import PARTS, Counts, Words
from minirec.prior.periods import ALL, Events, events
from minirec.store.files import read_json, write_json
from minirec.store.remote import located
from minirec.store.tables import read_table

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
    """

    def __init__(self, seen: Events, words: Words, weights: Sequence[float]):
        self.weights = np.asarray(weights, dtype=np.float64)
        self._events = seen
        self._words = words
        self.counts = lru_cache(maxsize=KEPT)(self._count)

    @classmethod
    def load(cls, corpus: Path, folder: Path) -> Prior:
        """The prior of a corpus folder with the weights in `folder` (`save_weights`)."""
        return cls.of(corpus, weights_in(folder))

    @classmethod
    def of(cls, corpus: Path, weights: Sequence[float] = (1, 1, 1)) -> Prior:
        """The prior of a corpus folder with these weights of `PARTS`."""
        words = Words.of(load_catalogue(corpus).titles)
        return cls(load_events(corpus), words, weights)

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

    def parts(self, asked: Sequence[Asked]) -> NDArray[np.float32]:
        """`PARTS` for B samples, each in 0..1, from the events that a sample may use: (3, B, V)."""
        periods = np.array([self._period(one.sample_id) for one in asked])
        found = np.zeros((len(PARTS), len(asked), self._words.vectors.shape[0]), np.float32)
        for period in np.unique(periods).tolist():
            rows = np.flatnonzero(periods == period)
            found[:, rows] = self.counts(period).parts([asked[row].history for row in rows])
        return found

    def __call__(self, asked: Sequence[Asked]) -> NDArray[np.float32]:
        """Prior scores (B, V) float32 of samples."""
        return combined(self.parts(asked), self.weights)

    def _period(self, sample_id: int) -> int:
        # The samples of train have the lowest ids.
        train = self._events.period
        return int(train[sample_id]) if 0 <= sample_id < len(train) else ALL


def combined(parts: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weighted sum (B, V) float32 of parts (3, B, V)."""
    total = np.zeros(parts.shape[1:], np.float32)
    for part, weight in zip(parts, weights, strict=True):
        total += np.float32(weight) * part
    return total


def save_weights(folder: Path, weights: Iterable[float], **facts: object) -> None:
    """Write the weights of `PARTS`, and facts about them, to ``prior.json``."""
    named = {part: float(weight) for part, weight in zip(PARTS, weights, strict=True)}
    write_json(folder / "prior.json", {"weights": named, **facts})


def weights_in(folder: Path | str) -> list[float]:
    """The weights of `PARTS` that `save_weights` wrote."""
    weights = read_json(located(str(folder)) / "prior.json")["weights"]
    return [weights[part] for part in PARTS]


def load_events(corpus: Path) -> Events:
    """The events of the train split of a corpus folder."""
    columns = ["user", "history", "history_time", "target", "time"]
    by_time = "first_day" in read_json(corpus / "corpus.json")
    return events(read_table(corpus / "train.parquet", columns), by_time=by_time)
