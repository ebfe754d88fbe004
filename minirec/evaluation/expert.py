"""Experts whose items a training imitates: recommenders of counts, or a table of one's own.

The counts of a sample leave out its own user. Users are divided into folds, and a sample's counts
come from the other folds (method, section 11, as for a corpus without times). So an item that only
the sample's user has gets the score 0, and no expert can know a target from its own user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.corpus.table import Sample, load_catalogue
from minirec.errors import ConfigError, MiniRecError
from minirec.evaluation import references
from minirec.prior.counts import Words
from minirec.prior.periods import events
from minirec.prior.prior import Prior
from minirec.rl.demonstrations import Demonstration
from minirec.selection.learnability import chance_level
from minirec.store.remote import located
from minirec.store.tables import read_table

EXPERTS: dict[str, references.Reference] = {
    "cooccurrence": references.cooccurrence,
    "titles": references.title_likeness,
    "shortcut": references.shortcut,
}
"""The experts that score all items; `table` is the other one."""
Expert = Callable[[Sequence[Sample]], dict[int, Demonstration]]
"""The demonstrations of samples by sample_id; a sample about which the expert knows nothing has
none."""


def load_expert(corpus: Path, name: str, *, table: str | None, items: int, cutoff: int) -> Expert:
    """The expert of a corpus folder.

    Args:
        name: of `EXPERTS`, or ``table``.
        table: file of the table.
        items: number of items of a demonstration.
        cutoff: of the NDCG that says how good the expert is.

    Raises:
        ConfigError: the table lacks a column, or names an item that the catalogue has not.
    """
    if name == "table":
        assert table is not None
        count = len(load_catalogue(corpus))
        return TableExpert(read_expert(table, items=count), count, items=items, cutoff=cutoff)
    train = read_table(
        corpus / "train.parquet", ["user", "history", "history_time", "target", "time"]
    )
    words = Words.of(load_catalogue(corpus).titles)
    counts = Prior(events(train, by_time=False), words, (1, 1, 1))
    return CountsExpert(EXPERTS[name], counts, items=items, cutoff=cutoff)


class CountsExpert:
    """An expert that scores all items for a history, from the counts of other users."""

    def __init__(self, score: references.Reference, counts: Prior, *, items: int, cutoff: int):
        self.score, self.counts, self.items, self.cutoff = score, counts, items, cutoff

    def __call__(self, samples: Sequence[Sample]) -> dict[int, Demonstration]:
        found = {}
        for sample in samples:
            known = self.counts.counts(self.counts.period(sample.sample_id))
            scores, ties = self.score(known, [sample.history])
            dense = scores[0] if isinstance(scores, np.ndarray) else scores.toarray()[0]
            one = demonstration(
                np.asarray(dense, dtype=np.float64),
                ties,
                sample=sample,
                items=self.items,
                cutoff=self.cutoff,
            )
            if one is not None:
                found[sample.sample_id] = one
        return found


def demonstration(
    scores: NDArray[np.float64],
    ties: NDArray[np.float64],
    *,
    sample: Sample,
    items: int,
    cutoff: int,
) -> Demonstration | None:
    """The best items of scores (V,), of equal ones those with the larger ties (V,), then the lowest
    ids; None if no item that may be ranked has a score above 0.

    The probabilities are the softmax of the scores of these items, standardised to mean 0 and
    standard deviation 1. The advantage is NDCG@cutoff of the target, minus chance.
    """
    left = scores.copy()
    left[[item for item in sample.excluded if item != sample.target]] = -np.inf
    own = left[sample.target]
    ahead = (left > own) | ((left == own) & (ties >= ties[sample.target]))
    rank = int(ahead.sum())  # the target itself is among them
    known = np.flatnonzero(left > 0)
    if not len(known):
        return None
    order = np.lexsort((known, -ties[known], -left[known]))[:items]
    best = known[order]
    spread = left[best].std()
    z = (left[best] - left[best].mean()) / spread if spread > 0 else np.zeros(len(best))
    weight = np.exp(z - z.max())
    gain = _gain(rank, cutoff) - chance_level(len(scores), cutoff=cutoff)
    return Demonstration(best.tolist(), (weight / weight.sum()).tolist(), gain)


class TableExpert:
    """An expert whose items somebody else has written down."""

    def __init__(
        self, rows: dict[int, list[tuple[int, float]]], count: int, *, items: int, cutoff: int
    ):
        """Args:
        rows: sample_id -> items with their probabilities, from `read_expert`.
        count: V.
        """
        self.rows, self.count, self.items, self.cutoff = rows, count, items, cutoff

    def __call__(self, samples: Sequence[Sample]) -> dict[int, Demonstration]:
        found = {}
        for sample in samples:
            out = set(sample.excluded) - {sample.target}
            ranked = [one for one in self.rows.get(sample.sample_id, []) if one[0] not in out]
            if not ranked:
                continue
            place = next((i for i, (item, _) in enumerate(ranked) if item == sample.target), None)
            gain = 0.0 if place is None else _gain(place + 1, self.cutoff)
            best = ranked[: self.items]
            total = sum(probability for _, probability in best)
            found[sample.sample_id] = Demonstration(
                [item for item, _ in best],
                [probability / total for _, probability in best],
                gain - chance_level(self.count, cutoff=self.cutoff),
            )
        return found


def read_expert(path: str, *, items: int) -> dict[int, list[tuple[int, float]]]:
    """sample_id -> items with their probabilities, the likeliest first, from a Parquet file with
    the columns sample_id, item and probability.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or names an item outside
            0..`items` - 1 or a probability that is not above 0.
    """
    names = ["sample_id", "item", "probability"]
    try:
        table = read_table(located(path), names)
        columns = [table[name].to_numpy() for name in names]
        samples, item, probability = (
            column.astype(kind)
            for column, kind in zip(columns, (np.int64, np.int64, np.float64), strict=True)
        )
    except (MiniRecError, OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            f"training.expert_table {path} cannot be read ({error}); give a Parquet file with the "
            f"columns {', '.join(names)}"
        ) from error
    strange = (item < 0) | (item >= items)
    if strange.any():
        raise ConfigError(
            f"training.expert_table {path} names item {item[strange][0]}, but the catalogue has "
            f"the items 0..{items - 1}; write item_id of corpus/items.parquet"
        )
    bad = ~((probability > 0) & np.isfinite(probability))
    if bad.any():
        raise ConfigError(
            f"training.expert_table {path} has the probability {probability[bad][0]}; expected a "
            f"number above 0"
        )
    rows: dict[int, list[tuple[int, float]]] = {}
    for at in np.lexsort((item, -probability, samples)).tolist():
        rows.setdefault(int(samples[at]), []).append((int(item[at]), float(probability[at])))
    return rows


def _gain(rank: int, cutoff: int) -> float:
    return float(1 / np.log2(rank + 1)) if rank <= cutoff else 0.0
