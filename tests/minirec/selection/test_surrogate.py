"""The surrogate's loss against plain arithmetic; it must not see its own target."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from minirec.corpus.schema import ITEMS, SAMPLES
from minirec.corpus.table import SampleFile
from minirec.prior import fit
from minirec.prior.prior import Prior
from minirec.selection.surrogate import counts_losses
from minirec.store.files import write_json
from minirec.store.tables import write_table

ITEM_COUNT = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 users walk through pairs of items; the last sample is the only one with the item 5."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(1)
    rows = []
    for number in range(40):
        first = int(rng.integers(0, 2)) * 2
        rows.append((f"u{number}", [first], first + 1, 10 * number + 5))
    rows.append(("last", [0], 5, 1000))
    columns = {
        "sample_id": list(range(len(rows))),
        "user": [r[0] for r in rows],
        "history": [r[1] for r in rows],
        "history_rating": [[1.0]] * len(rows),
        "history_time": [[r[3] - 1] for r in rows],
        "target": [r[2] for r in rows],
        "rating": [1.0] * len(rows),
        "time": [r[3] for r in rows],
    }
    write_table(folder / "train.parquet", pa.table(columns, schema=SAMPLES))
    names = [f"word{i}" for i in range(ITEM_COUNT)]
    items = {"item_id": range(ITEM_COUNT), "key": names, "title": names, "text": names}
    items = {name: list(values) for name, values in items.items()}
    write_table(folder / "items.parquet", pa.table(items, schema=ITEMS))
    write_json(folder / "corpus.json", {"category": "things", "first_day": 0})
    return folder


def test_the_loss_is_that_of_the_softmax_of_the_fitted_counts(corpus):
    file = SampleFile(corpus, "train")
    ids = np.array([3, 20, 40])
    found = counts_losses(corpus, ids, seed=7)
    prior = Prior.of(corpus)
    weights, _ = fit.fit(fit.choices(prior, fit.newest(file), items=ITEM_COUNT, seed=7))
    for sample, loss in zip(file.find(ids.tolist()), found, strict=True):
        parts = np.stack([part.toarray()[0] for part in prior.sparse_parts([sample])])
        scores = weights @ parts
        kept = [i for i in range(ITEM_COUNT) if i not in sample.excluded]
        p = np.exp(scores[sample.target]) / np.exp(scores[kept]).sum()
        assert loss == pytest.approx(-np.log(p), rel=1e-5)


def test_what_others_did_before_is_cheap_and_what_only_the_sample_holds_is_dear(corpus):
    found = counts_losses(corpus, np.arange(41), seed=7)
    assert found[40] > np.log(ITEM_COUNT - 1)  # worse than chance: no count holds its target
    assert found[30:40].mean() < found[:5].mean()  # early samples have no counts yet
