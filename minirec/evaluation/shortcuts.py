"""How far the references without training go on a corpus, before any model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from minirec.corpus.table import SampleFile
from minirec.evaluation.ranking import MAIN, per_sample
from minirec.evaluation.references import REFERENCES, reference_ranks
from minirec.prior.counts import Words
from minirec.prior.periods import events
from minirec.prior.prior import Prior
from minirec.store.tables import open_table

SAMPLES = 500
"""Largest number of validation samples."""
SCORES = 10_000_000
"""Largest number of samples times items, of each reference."""


COUNTED = 100_000
"""About how many train samples are counted, the newest."""


def shortcuts(corpus: Path, titles: Sequence[str], *, counted: int = COUNTED) -> dict[str, Any]:
    """NDCG@10 of each reference on at most `SAMPLES` samples of valid, evenly spread.

    The references count the row groups of the train split that hold its newest `counted` samples.
    The result is the entry ``shortcuts`` of ``corpus.json``: ``counted``; ``samples``; ``ndcg@10``,
    by name; ``best``, the name of the best.
    """
    train, valid = _newest(corpus / "train.parquet", counted), SampleFile(corpus, "valid")
    # The counts of the whole train split do not depend on periods.
    known = Prior(events(train, by_time=True), Words.of(titles), (1, 1, 1)).known
    most = min(SAMPLES, max(1, SCORES // len(titles)), len(valid))
    rows = np.unique(np.linspace(0, len(valid) - 1, most).astype(int))
    samples = valid.take(rows.tolist())
    asked: dict[str, Any] = {
        "history": [s.history for s in samples],
        "target": [s.target for s in samples],
        "excluded": [s.excluded for s in samples],
    }
    found = {}
    for name, score in REFERENCES.items():
        ndcg = per_sample(reference_ranks(score, known, **asked))[MAIN]
        found[name] = round(float(ndcg.mean()), 6)
    best = max(found, key=found.__getitem__)
    return {"counted": len(train), "samples": len(samples), MAIN: found, "best": best}


def _newest(train: Path, rows: int) -> pa.Table:
    """The last row groups of a file with at least `rows` rows, or all."""
    with open_table(train) as source:
        groups: list[int] = []
        found = 0
        for group in reversed(range(source.num_row_groups)):
            if found >= rows:
                break
            groups.insert(0, group)
            found += source.metadata.row_group(group).num_rows
        return source.read_row_groups(groups)
