"""Reading a prepared corpus: the catalogue and the samples of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minirec.artifacts import read_json, read_table
from minirec.errors import ArtifactError


@dataclass(frozen=True)
class Sample:
    """One target interaction; `history` holds item ids, oldest first."""

    sample_id: int
    history: list[int]
    target: int


@dataclass(frozen=True)
class Catalogue:
    """Titles and texts by item id, and the wording of the domain."""

    titles: list[str]
    texts: list[str]
    category: str

    def __len__(self) -> int:
        return len(self.titles)


def load_catalogue(corpus: Path) -> Catalogue:
    """Catalogue of a corpus folder."""
    table = read_table(corpus / "items.parquet")
    ids = table["item_id"].to_pylist()
    if ids != list(range(len(ids))):
        raise ArtifactError(f"{corpus / 'items.parquet'}: item_id is not 0..V-1 in order")
    category = read_json(corpus / "corpus.json")["category"]
    return Catalogue(table["title"].to_pylist(), table["text"].to_pylist(), category)


def load_samples(corpus: Path, split: str) -> list[Sample]:
    """Samples of train, valid or test in file order."""
    table = read_table(corpus / f"{split}.parquet").select(["sample_id", "history", "target"])
    columns = (table[name].to_pylist() for name in ("sample_id", "history", "target"))
    return [Sample(*row) for row in zip(*columns, strict=True)]
