"""Make a corpus: from files, which Ray Data reads, or with the demo generator."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minirec.config.corpus import CorpusConfig
from minirec.corpus import assemble, demo, download, sources, split, times, weights
from minirec.corpus.blocks import BLOCK_BYTES, read_blocks
from minirec.corpus.events import Events
from minirec.corpus.files import FileSpec
from minirec.corpus.parse import CATALOGUE, EVENTS
from minirec.corpus.schema import ITEMS, REJECTED, TRUTH
from minirec.corpus.specs import BY_FILE
from minirec.corpus.table import SampleFile
from minirec.corpus.vectorised import parse
from minirec.errors import CorpusError
from minirec.evaluation.shortcuts import shortcuts
from minirec.store.files import atomic_dir, write_json
from minirec.store.run import peak_memory_mib
from minirec.store.tables import write_table


@dataclass(frozen=True)
class Made:
    """The content of `corpus.json`, and the peak memory of the process that made the corpus."""

    summary: dict[str, Any]
    peak_memory_mib: float


def from_demo(corpus: CorpusConfig, folder: Path, seed: int, *, weight: str | None = None) -> Made:
    """Generate the demo corpus; `weight` names the column of its weights, if it gets any."""
    events, catalogue, labels = demo.generate(corpus.demo, seed=seed)
    category = corpus.category or "hobbies"
    head = {"source": "demo", "category": category, "rows": len(events), "notes": []}
    rejected = REJECTED.empty_table()
    return _write(corpus, folder, head, events, catalogue, rejected, labels, weight=weight)


def from_files(
    located: sources.Located,
    corpus: CorpusConfig,
    folder: Path,
    rejected_beside: Path,
    weight: str | None = None,
) -> Made:
    """Read, join and split the files.

    `weight` is the column with the weights of items, which the files of `located` then have.

    Raises:
        CorpusError: too many rows are rejected; they are written to `rejected_beside`. Or no weight
            can be used.
    """
    read = assemble.assemble(
        read_with_ray(located.events),
        read_with_ray(located.items),
        inline=located.inline,
        by_file=corpus.columns.get("order") == BY_FILE,
    )
    try:
        assemble.check_rejected(read, limit=corpus.max_rejected)
    except CorpusError as error:
        # The run directory gets no incomplete corpus, but the user needs the rejected rows.
        write_table(rejected_beside, read.rejected)
        raise CorpusError(f"{error}; all of them are in {rejected_beside}") from None
    category = located.category or read.category or located.fallback
    head = {
        "source": corpus.source,
        "category": category,
        "rows": read.rows,
        "notes": located.notes + read.notes,
    }
    return _write(corpus, folder, head, read.events, read.catalogue, read.rejected, weight=weight)


def _write(
    corpus: CorpusConfig,
    folder: Path,
    head: dict[str, Any],
    events: Events,
    catalogue: pa.Table,
    rejected: pa.Table,
    labels: np.ndarray | None = None,
    *,
    weight: str | None = None,
) -> Made:
    """Write samples, catalogue and summary to the corpus folder, all of it or nothing."""
    samples = split.make_samples(events, corpus)
    summary = head | {
        "events": samples.kept,
        "users": samples.users,
        "items": len(samples.item_codes),
        **({} if "order" in corpus.columns else _days(samples.tables)),
        "samples": {name: len(table) for name, table in samples.tables.items()},
        "rejected": assemble.counts(rejected),
        "same_time": split.same_time_facts(samples, corpus.same_time),
    }
    with atomic_dir(folder) as work:
        chosen = catalogue.take(pa.array(samples.item_codes))
        ids = pa.array(np.arange(len(chosen)), type=pa.int32())
        items = pa.table([ids, chosen["key"], chosen["title"], chosen["text"]], schema=ITEMS)
        if weight is not None:
            raw, targets = chosen["weight"].to_numpy(), samples.tables["train"]["target"].to_numpy()
            values, facts = weights.complete(weight, raw, targets=targets)
            items = items.append_column(weight, pa.array(values))
            summary[weights.FACTS] = asdict(facts)
        write_table(work / "items.parquet", items)
        for name, table in samples.tables.items():
            write_table(work / f"{name}.parquet", table)
        write_table(work / "rejected.parquet", rejected)
        if labels is not None:
            ids = np.arange(len(samples.event))
            truth = pa.table([pa.array(ids), pa.array(labels[samples.event])], schema=TRUTH)
            write_table(work / "truth.parquet", truth)
        summary["shortcuts"] = shortcuts(
            samples.tables["train"], SampleFile(work, "valid"), items["title"].to_pylist()
        )
        write_json(work / "corpus.json", summary)
    return Made(summary, peak_memory_mib())


def _days(tables: dict[str, pa.Table]) -> dict[str, str]:
    """First and last day of the samples and their histories, UTC."""
    columns = [table[name] for table in tables.values() for name in ("history_time", "time")]
    bounds = [pc.min_max(pc.list_flatten(c) if pa.types.is_list(c.type) else c) for c in columns]
    first = min(bound["min"].as_py() for bound in bounds)
    last = max(bound["max"].as_py() for bound in bounds)
    return {"first_day": times.day(first), "last_day": times.day(last)}


def downloaded(corpus: CorpusConfig) -> CorpusConfig:
    """The settings; if they ask for a download, with the paths of the Amazon files."""
    if not corpus.download:
        return corpus
    if corpus.source != "amazon" or not corpus.category or not corpus.path:
        raise CorpusError(
            "corpus.download=true needs corpus.source=amazon, corpus.category (e.g. All_Beauty) "
            "and corpus.path, the folder to download to"
        )
    core = corpus.download if isinstance(corpus.download, str) else "0core"
    ratings, metadata = download.download_category(corpus.category, corpus.path, core=core)
    names = {"ratings": str(ratings.absolute()), "metadata": str(metadata.absolute())}
    return corpus.model_copy(update=names)


def read_with_ray(specs: list[FileSpec]) -> pa.Table:
    """Stream the files through Ray Data: one task reads a file, many parse its blocks.

    Returns:
        `parse.EVENTS` or `parse.CATALOGUE`, one row per row of the files, in any order.
    """
    import ray

    by_path = {spec.path: spec for spec in specs}
    schema = EVENTS if specs[0].kind == "events" else CATALOGUE

    def blocks(batch: pa.Table) -> Iterator[pa.Table]:
        for path in batch["file"].to_pylist():
            yield from read_blocks(by_path[path])

    # With equal CPU shares Ray would fuse both steps into one task for each file, which would parse
    # a large file on one core.
    dataset = (
        ray.data.from_items([{"file": path} for path in by_path], override_num_blocks=len(by_path))
        .map_batches(blocks, batch_size=1, batch_format="pyarrow", num_cpus=0.25)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            lambda batch: parse(batch, by_path),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0.7,
        )
    )
    dataset.context.target_max_block_size = 2 * BLOCK_BYTES
    # Without a terminal Ray writes its progress as dozens of log lines.
    dataset.context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    tables = [batch.cast(schema) for batch in batches if batch.num_columns]
    return pa.concat_tables(tables) if tables else schema.empty_table()
