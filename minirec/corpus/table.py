"""Reads a prepared corpus: the catalogue and the samples of a split."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from minirec.errors import ArtifactError
from minirec.store.files import read_json
from minirec.store.remote import local_file
from minirec.store.tables import check_table, open_table, read_table

COLUMNS = ("sample_id", "history", "history_rating", "target", "same_time")
"""Columns of a sample; a file may lack the last one."""
PIECE = 4096
"""Strings that are made at a time when all are read."""


@dataclass(frozen=True)
class Sample:
    """One target interaction.

    history: item ids, oldest first. same_time: other items of the same user and time, if
    `corpus.same_time` excludes these from the history. following: later items of the user that are
    relevant too (`minirec.corpus.following`); no file holds them. history_rating: the ratings of
    the events of the history.
    """

    sample_id: int
    history: list[int]
    target: int
    same_time: list[int] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    history_rating: list[float] = field(default_factory=list)

    @property
    def excluded(self) -> list[int]:
        """Items that do not compete with the target: those of the history and of its time."""
        return self.history + self.same_time


class Strings(Sequence[str]):
    """Texts in an Arrow array. A Python string is made when one is read.

    A list of a million strings needs a hundred bytes for each beside its letters, and a pickle of
    it takes seconds.
    """

    def __init__(self, values: pa.ChunkedArray | pa.Array | Sequence[str]):
        if not isinstance(values, pa.ChunkedArray | pa.Array):
            values = pa.array(values, pa.string())
        # The offsets of `string` end at 2 GiB.
        whole = values.cast(pa.large_string())
        self._values = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        found = self._values[at]
        return found.to_pylist() if isinstance(at, slice) else found.as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def __add__(self, more: Sequence[str]) -> Strings:
        return Strings(pa.chunked_array([self._values, pa.array(more, pa.large_string())]))


@dataclass(frozen=True)
class Catalogue:
    """Titles and texts by item id, the name of the domain, and how many pairs of its history a
    prompt has at most (`corpus.choices`)."""

    titles: Sequence[str]
    texts: Sequence[str]
    category: str
    choices: int = 0

    def __len__(self) -> int:
        return len(self.titles)


def load_catalogue(corpus: Path) -> Catalogue:
    """Catalogue of a corpus folder."""
    table = read_table(corpus / "items.parquet", ["item_id", "title", "text"])
    ids = table["item_id"].to_numpy()
    if not np.array_equal(ids, np.arange(len(ids))):
        raise ArtifactError(f"{corpus / 'items.parquet'}: item_id is not 0..V-1 in order")
    facts = read_json(corpus / "corpus.json")
    titles, texts = Strings(table["title"]), Strings(table["text"])
    return Catalogue(titles, texts, facts["category"], facts.get("choices", 0))


class SampleFile:
    """Samples of train, valid or test, read on demand; one row group is in memory at a time."""

    def __init__(self, corpus: Path, split: str):
        self.path = corpus / f"{split}.parquet"
        self._file = _local(self.path)
        with open_table(self._file) as source:
            footer = source.metadata
            self._names = [name for name in COLUMNS if name in source.schema_arrow.names]
        sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._held: tuple[int, pa.Table] | None = None
        self._ids: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Sequence[int]) -> list[Sample]:
        """The samples in these rows of the file; row numbers must ascend."""
        return [sample for table in self._tables(rows) for sample in _samples(table)]

    def ids(self, rows: Sequence[int]) -> list[int]:
        """The sample_ids of these rows; row numbers must ascend."""
        return [i for table in self._tables(rows) for i in table["sample_id"].to_pylist()]

    def find(self, sample_ids: Collection[int]) -> list[Sample]:
        """The samples with these ids, in file order.

        Raises:
            ArtifactError: one is not in the file.
        """
        if self._ids is None:
            self._ids = read_table(self._file, ["sample_id"])["sample_id"].to_numpy()
        there = self._ids
        rows = np.flatnonzero(np.isin(there, list(sample_ids)))
        if len(rows) != len(set(sample_ids)):
            lost = sorted(set(sample_ids) - set(there[rows].tolist()))
            raise ArtifactError(f"{self.path} lacks sample {lost[0]}; run `minirec prepare`")
        return self.take(rows.tolist())

    def _tables(self, rows: Sequence[int]) -> Iterator[pa.Table]:
        cuts = np.searchsorted(rows, self._starts)
        for group in np.flatnonzero(np.diff(cuts)).tolist():
            inside = np.asarray(rows[cuts[group] : cuts[group + 1]]) - self._starts[group]
            yield self._group(group).take(inside)

    def _group(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            with open_table(self._file) as source:
                self._held = group, source.read_row_group(group, columns=self._names)
        return self._held[1]


def count_samples(corpus: Path, split: str) -> int:
    """Number of samples of a split, from the footer of its file."""
    with open_table(_local(corpus / f"{split}.parquet")) as source:
        return source.metadata.num_rows


def load_users(corpus: Path, split: str) -> np.ndarray:
    """(N,) int64 codes of the users of a split's samples, in file order."""
    users = read_table(corpus / f"{split}.parquet", ["user"])["user"]
    return users.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def load_samples(corpus: Path, split: str) -> list[Sample]:
    """All samples of train, valid or test in file order."""
    samples = SampleFile(corpus, split)
    return samples.take(range(len(samples)))


def _local(path: Path) -> Path:
    """The file, or its copy on this machine."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing; run `minirec prepare` first")
    return local_file(path, check_table)


def _samples(table: pa.Table) -> list[Sample]:
    return [Sample(**row) for row in table.to_pylist()]
