"""Add the events of files to a prepared corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.corpus import Made, check_rejected
from minirec.config.corpus import CorpusConfig
from minirec.corpus import append
from minirec.corpus.files import sources
from minirec.corpus.reading import Reader
from minirec.errors import DamageError
from minirec.evaluation.shortcuts import shortcuts
from minirec.store.files import atomic_dir, differences, manifest, read_json, write_json
from minirec.store.run import peak_memory_mib
from minirec.store.tables import read_table


def append_files(
    located: sources.Located,
    corpus: CorpusConfig,
    folder: Path,
    rejected_beside: Path,
    files: Sequence[str],
    weight: str | None,
    own_catalogue: bool,
    out: Path,
    reader: Reader,
) -> Made:
    """Write a corpus that has the events of the corpus of a folder and those of the located files.

    Args:
        folder: the corpus before.
        corpus: the settings that read these files (`CorpusConfig.additions`).
        files: names of the files of the events, for ``corpus.json``.
        weight: column of the weights of items.
        own_catalogue: whether the catalogue is not that of the corpus.
        out: the folder that is written, or replaced.
        reader: reads the files, in this process or in those of a cluster.

    Raises:
        CorpusError: too many rows are rejected; they are written to `rejected_beside`. Or an event
            is not later than the corpus.
    """
    read = append.read_new(folder, located, reader, own_catalogue=own_catalogue)
    check_rejected(read, corpus, rejected_beside)
    with atomic_dir(out) as work:
        summary = append.append(folder, work, read, corpus, files=files, weight=weight)
        titles = read_table(work / "items.parquet", ["title"])["title"].to_pylist()
        summary["shortcuts"] = shortcuts(work, titles)
        write_json(work / "corpus.json", summary)
    return Made(summary, peak_memory_mib())


def held(folder: Path, files: Sequence[Sequence[str]]) -> int | None:
    """How many of the appended files a finished corpus has already.

    Args:
        files: names of the files of each addition, in order.

    Returns:
        None if nothing can be added to the corpus: it is damaged, has other files, or has no tails.
    """
    try:
        entries = manifest(folder)
        if entries is None or "tails.parquet" not in entries or differences(folder, entries):
            return None
        there = [one["files"] for one in read_json(folder / "corpus.json").get("appended", [])]
    except DamageError:
        return None
    return len(there) if there == [list(names) for names in files][: len(there)] else None
