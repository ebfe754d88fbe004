"""A recommender of the tiny model for a small catalogue."""

from __future__ import annotations

import pyarrow as pa

from actors.serving.recommender import Recommender, RecommenderSpec
from helpers.tiny_model import build_adapter, build_model
from minirec.config.run import Config
from minirec.store.files import write_json
from minirec.store.tables import write_array, write_table


def built(folder, vectors, *, titles=None, new_items=()):
    """A recommender for items k0, k1, ... with these vectors (V, 64); titles: of the V items."""
    items = len(vectors)
    model = build_model(folder / "model")
    adapter = build_adapter(model, folder / "adapter", seed=1)
    corpus = folder / "corpus"
    columns = {
        "item_id": list(range(items)),
        "key": [f"k{i}" for i in range(items)],
        "title": titles or [f"blue pen {i}" for i in range(items)],
        "text": [""] * items,
    }
    write_table(corpus / "items.parquet", pa.table(columns))
    write_json(corpus / "corpus.json", {"category": "pens"})
    write_array(folder / "vectors.npy", vectors.numpy())
    return Recommender(
        RecommenderSpec(
            corpus=str(corpus),
            model=model,
            adapter=adapter.path,
            vectors=str(folder / "vectors.npy"),
            config=Config(),
            analysis=False,
            new_items=tuple(new_items),
        )
    )
