"""The ordered subset in the formats of other trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minirec.corpus.table import Catalogue, Sample
from minirec.model.recommender import Encoder, shown
from minirec.prior.prior import Prior

Row = dict[str, Any]
Message = list[dict[str, str]]
LARGEST_ROW = 10_000
"""Number of items for which an export holds the prior of a sample: the highest scores."""


@dataclass(frozen=True)
class Example:
    """One sample of the subset.

    `prompt` is a chat if the model has a template, else the text. `text` is always the text that
    the model reads. `following` are later items that are relevant too; None: the reward has no
    horizon.
    """

    rank: int
    sample: Sample
    prompt: str | Message
    text: str
    following: list[int] | None = None


def example(
    rank: int, sample: Sample, encoder: Encoder, catalogue: Catalogue, *, horizon: int = 1
) -> Example:
    """The sample with its prompt. Titles are cut as in training."""
    words = encoder.words(*shown(sample, catalogue))
    chat: Message = [{"role": "user", "content": words}]
    prompt = chat if encoder.has_template else words
    later = sample.following if horizon > 1 else None
    return Example(rank, sample, prompt, encoder.text(words), later)


def _later(e: Example) -> Row:
    """The column of the following items, if the reward has a horizon."""
    return {} if e.following is None else {"following": e.following}


def _plain(e: Example, catalogue: Catalogue) -> Row:
    return {
        "rank": e.rank,
        "sample_id": e.sample.sample_id,
        "prompt": e.prompt,
        "prompt_text": e.text,
        "history": e.sample.history,
        "excluded": e.sample.excluded,
        "target": e.sample.target,
        "history_titles": [catalogue.titles[i] for i in e.sample.history],
        "target_title": catalogue.titles[e.sample.target],
        **_later(e),
    }


def _trl(e: Example, catalogue: Catalogue) -> Row:
    row = _plain(e, catalogue)
    names = ("prompt", "prompt_text", "history", "excluded", "target", "sample_id")
    return {name: row[name] for name in names} | _later(e)


def _verl(e: Example, catalogue: Catalogue) -> Row:
    chat = e.prompt if isinstance(e.prompt, list) else [{"role": "user", "content": e.prompt}]
    return {
        "data_source": "minirec",
        "prompt": chat,
        "ability": "recommendation",
        "reward_model": {"style": "rule", "ground_truth": e.sample.target},
        "extra_info": {
            "split": "train",
            "index": e.rank,
            "sample_id": e.sample.sample_id,
            "prompt_text": e.text,
            "history": e.sample.history,
            "excluded": e.sample.excluded,
            **_later(e),
        },
    }


def _openrlhf(e: Example, catalogue: Catalogue) -> Row:
    sample = e.sample
    label = {
        "target": sample.target,
        "excluded": sample.excluded,
        "sample_id": sample.sample_id,
        **_later(e),
    }
    return {"prompt": e.text, "label": json.dumps(label), "datasource": "minirec"}


FORMATS: dict[str, tuple[str, Callable[[Example, Catalogue], Row]]] = {
    "jsonl": ("train.jsonl", _plain),
    "datasets": ("data/train-00000-of-00001.parquet", _plain),
    "trl": ("train.jsonl", _trl),
    "verl": ("train.parquet", _verl),
    "openrlhf": ("train.jsonl", _openrlhf),
}
"""Value of ``--to`` -> file name, and the function that makes a row."""
ITEMS = {to: "items.jsonl" for to in ("jsonl", "trl", "openrlhf")}
ITEMS["datasets"] = "data/items.parquet"
"""The file of items that `load_dataset` can read beside the subset: it has the same format."""


def items_of(catalogue: Catalogue) -> Iterable[Row]:
    """A row with the title of each item."""
    return ({"item_id": item, "title": title} for item, title in enumerate(catalogue.titles))


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines, or Parquet if the file name ends in .parquet."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_prior(path: Path, prior: Prior, samples: Sequence[Sample]) -> None:
    """Write the prior scores of N samples, each from the events that it may use, as an npz.

    sample_id (N,). ends (N,), the end of each sample's entries in items (int32) and values
    (float32): the scores above 0, at most the `LARGEST_ROW` highest; of equal ones, the lowest ids.
    """
    items, values = [], []
    for sample in samples:
        scores = prior([sample]).toarray()[0]
        kept = np.flatnonzero(scores > 0)
        if len(kept) > LARGEST_ROW:
            kept = np.sort(kept[np.argsort(-scores[kept], kind="stable")[:LARGEST_ROW]])
        items.append(kept.astype(np.int32))
        values.append(scores[kept])
    np.savez_compressed(
        path,
        sample_id=np.array([sample.sample_id for sample in samples], np.int64),
        ends=np.cumsum([len(one) for one in items]),
        items=np.concatenate([np.zeros(0, np.int32), *items]),
        values=np.concatenate([np.zeros(0, np.float32), *values]),
    )
