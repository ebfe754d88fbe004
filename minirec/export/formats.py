"""The ordered subset in the formats of other trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from minirec.corpus.table import Catalogue, Sample
from minirec.model.recommender import Encoder

Row = dict[str, Any]
Message = list[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """One sample of the subset.

    `prompt` is a chat if the model has a template, else the text. `text` is always the text that
    the model reads.
    """

    rank: int
    sample: Sample
    prompt: str | Message
    text: str


def example(rank: int, sample: Sample, encoder: Encoder, catalogue: Catalogue) -> Example:
    """The sample with its prompt. Titles are cut as in training."""
    words = encoder.words([catalogue.titles[i] for i in sample.history])
    chat: Message = [{"role": "user", "content": words}]
    prompt = chat if encoder.has_template else words
    return Example(rank, sample, prompt, encoder.text(words))


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
    }


def _trl(e: Example, catalogue: Catalogue) -> Row:
    row = _plain(e, catalogue)
    names = ("prompt", "prompt_text", "history", "excluded", "target", "sample_id")
    return {name: row[name] for name in names}


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
        },
    }


def _openrlhf(e: Example, catalogue: Catalogue) -> Row:
    label = {"target": e.sample.target, "excluded": e.sample.excluded}
    return {"prompt": e.text, "label": json.dumps(label), "datasource": "minirec"}


FORMATS: dict[str, tuple[str, Callable[[Example, Catalogue], Row]]] = {
    "jsonl": ("train.jsonl", _plain),
    "trl": ("train.jsonl", _trl),
    "verl": ("train.parquet", _verl),
    "openrlhf": ("train.jsonl", _openrlhf),
}
"""Value of ``--to`` -> file name, and the function that makes a row."""


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines, or Parquet if the file name ends in .parquet."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
