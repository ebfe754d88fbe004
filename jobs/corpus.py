"""Make a corpus: from files, or with the demo generator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus import demo, split, weights
from minirec.corpus.assemble import Assembled, assemble
from minirec.corpus.files import download, sources, times
from minirec.corpus.files.specs import BY_FILE
from minirec.corpus.filters import Kept, filtered
from minirec.corpus.items import Items
from minirec.corpus.parts import LocalParts, Parts
from minirec.corpus.places import Places
from minirec.corpus.samples import Facts, write_samples
from minirec.corpus.schema import ITEMS, REJECTED, TAILS, TRUTH
from minirec.corpus.tails import LAST_TIME, tails
from minirec.errors import CorpusError
from minirec.evaluation.shortcuts import shortcuts
from minirec.store.files import atomic_dir, write_json
from minirec.store.run import peak_memory_mib
from minirec.store.tables import ROW_GROUP, write_batches, write_table

if TYPE_CHECKING:
    from minirec.corpus.reading import Reader  # the demo is not read


@dataclass(frozen=True)
class Made:
    """The content of `corpus.json`, and the peak memory of the process that made the corpus."""

    summary: dict[str, Any]
    peak_memory_mib: float


def from_demo(corpus: CorpusConfig, folder: Path, seed: int, *, weight: str | None = None) -> Made:
    """Generate the demo corpus; `weight` names the column of its weights, if it gets any."""
    events, items, labels = demo.generate(corpus.demo, seed=seed)
    category = corpus.category or "hobbies"
    head = {"source": "demo", "category": category, "rows": len(events), "notes": []}
    parts = LocalParts([events.clean()])
    kept = filtered(parts, corpus, items=items)
    with atomic_dir(folder) as work:
        write_table(work / "rejected.parquet", REJECTED.empty_table())
        summary = _write(work, head | {"rejected": {}}, parts, corpus, items, kept, weight, labels)
    return Made(summary, peak_memory_mib())


def from_files(
    located: sources.Located,
    corpus: CorpusConfig,
    folder: Path,
    rejected_beside: Path,
    weight: str | None,
    reader: Reader,
) -> Made:
    """Read, join and split the files.

    Args:
        weight: the column with the weights of items, which the files of `located` then have.
        reader: reads the files, in this process or in those of a cluster.

    Raises:
        CorpusError: too many rows are rejected; they are written to `rejected_beside`. Or no weight
            can be used.
    """
    places = Places(spec.path for spec in (*located.events, *located.items))
    catalogue = reader.catalogue(located.items, places, inline=located.inline)
    by_file = corpus.columns.get("order") == BY_FILE
    read = assemble(
        reader.events(located.events, places, by_file=by_file),
        catalogue,
        places,
        inline=located.inline,
    )
    check_rejected(read, corpus, rejected_beside)
    kept = filtered(read.parts, corpus, items=read.items)
    head = {
        "source": corpus.source,
        "category": located.category or read.items.category(kept.occurring) or located.fallback,
        "rows": read.rows,
        "notes": located.notes + read.notes,
        "rejected": read.counts(),
    }
    with atomic_dir(folder) as work:
        write_batches(work / "rejected.parquet", REJECTED, read.rejected_rows())
        summary = _write(work, head, read.parts, corpus, read.items, kept, weight)
    return Made(summary, peak_memory_mib())


def check_rejected(read: Assembled, corpus: CorpusConfig, beside: Path) -> None:
    """Raise `CorpusError` if too many rows are rejected; they are written to `beside`."""
    try:
        read.check_rejected(limit=corpus.max_rejected)
    except CorpusError as error:
        # The run directory gets no incomplete corpus, but the user needs the rejected rows.
        write_batches(beside, REJECTED, read.rejected_rows())
        raise CorpusError(f"{error}; all of them are in {beside}") from None


def _write(
    folder: Path,
    head: dict[str, Any],
    parts: Parts,
    corpus: CorpusConfig,
    items: Items,
    kept: Kept,
    weight: str | None,
    labels: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write samples, catalogue and summary into a folder; returns the summary."""
    plan = split.plan(parts, corpus, items=items, kept=kept)
    places: list[np.ndarray] = []

    def watch(batch: pa.Table) -> None:
        if labels is not None:
            places.append(batch["order"].to_numpy())

    facts = write_samples(folder, parts, corpus, items=items, kept=kept, plan=plan, watch=watch)
    if labels is not None:
        order = np.concatenate(places)
        truth = pa.table([np.arange(len(order)), labels[order]], schema=TRUTH)
        write_table(folder / "truth.parquet", truth)
    rejected = head.pop("rejected")
    summary = head | {
        "events": plan.events,
        "users": plan.users,
        "items": len(facts.targets),
        **({} if "order" in corpus.columns else _days(facts)),
        "samples": facts.sizes,
        "rejected": rejected,
        "same_time": split.same_time_facts(corpus.same_time, facts.shared, plan.left_out),
    }
    titles = _write_items(folder, items.table.filter(pa.array(kept.items)), facts, weight, summary)
    if corpus.choices:
        summary["choices"] = corpus.choices
    if corpus.whole_only is None:
        write_batches(folder / "tails.parquet", TAILS, tails(parts, corpus, items, kept))
        summary[LAST_TIME] = kept.last
    summary["shortcuts"] = shortcuts(folder, titles)
    write_json(folder / "corpus.json", summary)
    return summary


def _write_items(
    folder: Path, chosen: pa.Table, facts: Facts, weight: str | None, summary: dict[str, Any]
) -> list[str]:
    """Write the catalogue, with weights if there are any; returns the titles."""
    ids = pa.array(np.arange(len(chosen)), type=pa.int32())
    table = pa.table([ids, chosen["key"], chosen["title"], chosen["text"]], names=ITEMS.names)
    schema = ITEMS
    if weight is not None:
        raw = chosen["weight"].to_numpy()
        values, known = weights.complete(weight, raw, targets=facts.targets)
        table = table.append_column(weight, pa.array(values))
        schema = ITEMS.append(table.schema.field(weight))
        summary[weights.FACTS] = asdict(known)
    rows = (table.slice(at, ROW_GROUP).cast(schema) for at in range(0, len(table), ROW_GROUP))
    write_batches(folder / "items.parquet", schema, rows)
    return table["title"].to_pylist()


def _days(facts: Facts) -> dict[str, str]:
    """First and last day of the samples and their histories, UTC."""
    return {"first_day": times.day(facts.first), "last_day": times.day(facts.last)}


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
