"""The collaborative prior of a policy that is handed over: one condensed table of counts.

Its counts are those of the whole train split, or after `minirec refresh` those of all known events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minirec.prior.counts import Counts, Floats, History
from minirec.prior.prior import Prior, save_weights, weights_in
from minirec.store.files import fetch

NEIGHBOURS = 1000
"""Items with which an item keeps its co-occurrence; up to 1,001 items nothing is left out."""
FILE = "prior.npz"


@dataclass(frozen=True)
class ServedPrior:
    """Condensed counts of V items, the weights of `minirec.prior.counts.PARTS`, and the weight of
    the policy, `scale`."""

    counts: Counts
    weights: tuple[float, ...]
    scale: float = 1

    def scores(self, history: History) -> Floats:
        """Prior scores (B, V) float64 of B histories of item ids, oldest first."""
        return self.counts.scores(history, self.weights)

    def with_titles(self, titles: Sequence[str]) -> ServedPrior:
        """The prior of a catalogue with further items, which no user has."""
        return replace(self, counts=self.counts.with_titles(titles)) if titles else self

    def save(self, folder: Path, **facts: object) -> None:
        """Write ``prior.npz``, and ``prior.json`` with the weights and facts about them."""
        self.counts.save(folder / FILE)
        save_weights(folder, self.weights, scale=self.scale, facts=facts)


def load(corpus: Path, folder: str, *, refreshed: str | None = None) -> ServedPrior:
    """The prior with the weights in a folder.

    Args:
        corpus: folder of the corpus. Its train split is counted where no counts are stored.
        folder: of `save_weights` or `ServedPrior.save`, local or on an object store.
        refreshed: folder of `ServedPrior.save` whose counts replace those of `folder`.

    Raises:
        ArtifactError: the folder is missing or damaged.
    """
    scale, weights = weights_in(folder)
    stored = Path(fetch(refreshed or folder)) / FILE
    if stored.exists():
        return ServedPrior(Counts.load(stored), tuple(weights), scale)
    return ServedPrior(Prior.of(corpus).known.condensed(NEIGHBOURS), tuple(weights), scale)
