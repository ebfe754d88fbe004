"""Writes the samples of a corpus, or collects them in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config.corpus import CorpusConfig
from minirec.corpus.filters import Kept, filtered
from minirec.corpus.items import Items
from minirec.corpus.parts import LocalParts, Parts
from minirec.corpus.schema import SAMPLES, SAMPLES_WITH_SAME_TIME
from minirec.corpus.split import SPLITS, Plan, ordered, plan
from minirec.store.tables import write_batches


@dataclass
class Facts:
    """What is known of samples after they have been seen.

    Attributes:
        sizes: split -> number of samples.
        shared: split -> samples whose user has another event at the target's time.
        first, last: earliest and latest time in targets and histories.
        targets: (V,) int64, train samples of each item_id.
    """

    targets: np.ndarray
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    shared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    first: int = np.iinfo(np.int64).max
    last: int = np.iinfo(np.int64).min

    @classmethod
    def none(cls, kept: Kept) -> Facts:
        """Before any sample has been seen."""
        return cls(np.zeros(np.count_nonzero(kept.items), np.int64))

    def see(self, name: str, batch: pa.Table) -> None:
        """Add a batch of `split.ordered`."""
        self.sizes[name] += len(batch)
        self.shared[name] += pc.sum(batch["shared"]).as_py()
        past = pc.min_max(pc.list_flatten(batch["history_time"]))["min"].as_py()
        self.first = min(self.first, past)
        self.last = max(self.last, pc.max(batch["time"]).as_py())
        if name == "train":
            self.targets += np.bincount(batch["target"].to_numpy(), minlength=len(self.targets))


@dataclass(frozen=True)
class Samples:
    """The splits of a corpus in memory.

    Attributes:
        tables: train, valid and test with schema `SAMPLES` or `SAMPLES_WITH_SAME_TIME`.
        item_codes: (V,) int64, for each dense item_id its row in `Items.table`.
        order: (S,) int64, for each sample_id the place of its target event in the files.
        plan, facts: see there.
    """

    tables: dict[str, pa.Table]
    item_codes: np.ndarray
    order: np.ndarray
    plan: Plan
    facts: Facts


def make_samples(clean: pa.Table, items: Items, corpus: CorpusConfig) -> Samples:
    """Filter clean events (`events.CLEAN`), pair each target with its history, split.

    Raises:
        CorpusError: see `filters.filtered` and `split.plan`.
    """
    parts = LocalParts([clean])
    kept = filtered(parts, corpus, items=items)
    planned = plan(parts, corpus, items=items, kept=kept)
    facts = Facts.none(kept)
    batches = list(numbered(parts, corpus, items=items, kept=kept, plan=planned, facts=facts))
    schema = _schema(planned)
    tables = {
        split: pa.concat_tables(
            [b.select(schema.names).cast(schema) for n, b in batches if n == split]
        )
        for split in SPLITS
    }
    order = np.concatenate([batch["order"].to_numpy() for _, batch in batches])
    return Samples(tables, np.flatnonzero(kept.items), order, planned, facts)


def write_samples(
    folder: Path,
    parts: Parts,
    corpus: CorpusConfig,
    *,
    items: Items,
    kept: Kept,
    plan: Plan,
    watch: Callable[[pa.Table], None],
) -> Facts:
    """Write train, valid and test as Parquet files, one row group at a time.

    The bytes depend on the samples alone. `watch` is called with each batch of `numbered`.
    """
    facts, schema = Facts.none(kept), _schema(plan)

    def rows(stream: Iterable[tuple[str, pa.Table]]) -> Iterator[pa.Table]:
        for _, batch in stream:
            watch(batch)
            yield batch.select(schema.names).cast(schema)

    samples = numbered(parts, corpus, items=items, kept=kept, plan=plan, facts=facts)
    for split, stream in itertools.groupby(samples, key=itemgetter(0)):
        write_batches(folder / f"{split}.parquet", schema, rows(stream))
    return facts


def numbered(
    parts: Parts, corpus: CorpusConfig, *, items: Items, kept: Kept, plan: Plan, facts: Facts
) -> Iterator[tuple[str, pa.Table]]:
    """The batches of `split.ordered` with sample_id, which `facts` then know.

    sample_id is the rank of the sample by (split, time, user, tie).
    """
    for split, batch in ordered(parts, corpus, items=items, kept=kept, plan=plan):
        first = sum(facts.sizes.values())
        facts.see(split, batch)
        ids = pa.array(np.arange(first, first + len(batch)))
        yield split, batch.add_column(0, "sample_id", ids)


def _schema(plan: Plan) -> pa.Schema:
    return SAMPLES_WITH_SAME_TIME if plan.same_time else SAMPLES
