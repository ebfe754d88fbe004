"""Recommendations are complete, exclude the history, and have a fixed order."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
import torch
from helpers.tiny_model import build_adapter, build_model

from actors.serving.recommender import BATCH, Recommender, RecommenderSpec
from minirec.config.run import Config
from minirec.store.files import write_json
from minirec.store.tables import write_array, write_table

ITEMS = 7
TWINS = {0, 2, 5, 6}


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    """Seven items, four of which have equal vectors."""
    folder = tmp_path_factory.mktemp("recommending")
    model = build_model(folder / "model")
    adapter = build_adapter(model, folder / "adapter", seed=1)
    corpus = folder / "corpus"
    columns = {
        "item_id": list(range(ITEMS)),
        "key": [f"k{i}" for i in range(ITEMS)],
        "title": [f"blue pen {i}" for i in range(ITEMS)],
        "text": [""] * ITEMS,
    }
    write_table(corpus / "items.parquet", pa.table(columns))
    write_json(corpus / "corpus.json", {"category": "pens"})
    vectors = torch.nn.functional.normalize(torch.randn(ITEMS, 64), dim=-1)
    for i in TWINS:
        vectors[i] = vectors[0]
    write_array(folder / "vectors.npy", vectors.numpy())
    return Recommender(
        RecommenderSpec(
            corpus=str(corpus),
            model=model,
            adapter=adapter.path,
            vectors=str(folder / "vectors.npy"),
            config=Config(),
            analysis=False,
        )
    )


def test_equal_items_come_in_the_order_of_their_ids_in_every_batch(recommender):
    """Longer histories in a batch change the shapes of all products."""
    draw = random.Random(3)
    histories = [[draw.choice([1, 3, 4]) for _ in range(1 + i % 9)] for i in range(2 * BATCH + 3)]
    alone = [recommender.recommend([h], top=[ITEMS])[0].items for h in histories]
    together = recommender.recommend(histories, top=[ITEMS] * len(histories))
    assert [found.items for found in together] == alone
    for items in alone:
        assert [i for i in items if i in TWINS] == sorted(TWINS)
    for top in range(1, ITEMS):
        fewer = recommender.recommend(histories[:9], top=[top] * 9)
        assert [found.items for found in fewer] == [items[:top] for items in alone[:9]]


def test_no_more_than_the_remaining_items(recommender):
    histories = [[0], [0, 0, 3], list(range(ITEMS)), [6, 5, 4, 3, 2, 1]]
    found = recommender.recommend(histories, top=[1000, 2, 5, 5])
    assert [len(one.items) for one in found] == [6, 2, 0, 1]
    assert sorted(found[0].items) == [1, 2, 3, 4, 5, 6]
    assert found[3].items == [0]
    assert all(-1 <= cosine <= 1 for one in found for cosine in one.cosines)
    assert recommender.recommend([], top=[]) == []
