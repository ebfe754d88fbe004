"""`minirec prepare`: read interactions and catalogue, write corpus/."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.fingerprint import weight_settings
from jobs.stage import Stage, Work
from minirec.errors import CorpusError
from minirec.store.run import Run, flatten

if TYPE_CHECKING:
    from minirec.config.corpus import CorpusConfig
    from minirec.config.run import Config


def made_with(run: Run, corpus: CorpusConfig) -> bool:
    """Whether a run has a corpus with these settings. The contents of the files are not checked."""
    record = run.done("prepare")
    wanted = flatten({"corpus": corpus.model_dump(mode="json")})
    return record is not None and wanted.items() <= record["settings"].items()


def _stamps(run: Run, config: Config) -> list[str]:
    """Name, size and hash of each input file, to detect a changed file.

    File times do not count, because a job works on a copy. If the files are missing but the corpus
    is finished, the recorded values are returned. Downloads have their own record.
    """
    from minirec.corpus import sources

    corpus = config.corpus
    if corpus.source == "demo" or corpus.download:
        return []
    record = run.done("prepare") if made_with(run, corpus) else None
    before = None if record is None else record["settings"]["files"]
    try:
        located = sources.locate(corpus, weight=config.reward.item_weight)
    except CorpusError:
        if before is None:
            raise
        return before
    specs = {spec.path: spec for spec in (*located.items, *located.events)}
    # A column may be in the names of folders only, so these count where it is used.
    names = {
        path: "".join(f"{column}={value}/" for column, value in specs[path].partition.items())
        + Path(path).name
        for path in sorted(specs)
    }
    return [
        f"{name} ({os.stat(path).st_size} bytes, sha256 {_hash(path)})"
        for path, name in names.items()
    ]


END = 64 << 20
"""Number of bytes that are hashed at each end of a file. The middle of a large file is skipped."""


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read(END))
        file.seek(max(file.tell(), os.stat(path).st_size - END))
        found.update(file.read())
    return found.hexdigest()[:16]


def _body(work: Work) -> None:
    """Write corpus/, or ``<run_dir>-rejected.parquet`` if too many rows are rejected."""
    from jobs.cluster.task import in_task
    from jobs.corpus import downloaded, from_demo, from_files
    from minirec.corpus import assemble, sources, split, weights
    from minirec.evaluation.headline import shortcuts_sentence

    run, session, corpus = work.run, work.session, work.config.corpus
    weight = work.config.reward.item_weight
    folder = run.path("corpus")
    if corpus.source == "demo":
        made = from_demo(corpus, folder, work.config.seed, weight=weight)
    else:
        located = sources.locate(downloaded(corpus), weight=weight)
        session.start_ray()
        session.wait_for_room([{"CPU": 1}])
        beside = run.root.with_name(f"{run.root.name}-rejected.parquet")
        made = in_task("prepare", from_files, located, corpus, folder, beside, weight)
    summary = made.summary
    work.cost.extra = {
        "rows": summary["rows"],
        "samples": sum(summary["samples"].values()),
        "task_peak_memory_mib": made.peak_memory_mib,
    }
    for note in summary["notes"]:
        run.say(f"prepare: note: {note}")
    sizes = ", ".join(f"{count:,} {name}" for name, count in summary["samples"].items())
    days, rejected = "", summary["rejected"]
    if "first_day" in summary:
        days = f" from {summary['first_day']} to {summary['last_day']}"
    twice = rejected.get(assemble.DUPLICATE, 0)
    duplicates = f", {twice:,} of them as {assemble.DUPLICATE}s" if twice else ""
    run.say(
        f"prepare: {summary['category']}: {summary['rows']:,} rows, {summary['events']:,} events "
        f"of {summary['users']:,} users on {summary['items']:,} items{days}; samples: {sizes}; "
        f"{sum(rejected.values()):,} rows rejected{duplicates}"
    )
    run.say(f"prepare: {split.same_time_sentences(summary)}")
    if weight is not None:
        run.say(f"prepare: {weights.Facts(**summary[weights.FACTS]).sentence()}")
    run.say(f"prepare: {shortcuts_sentence(summary['shortcuts'])}")


PREPARE = Stage(
    name="prepare",
    help="read interactions and catalogue, make samples",
    inputs=lambda config: [],
    outputs=("corpus",),
    settings=lambda run, config: {
        "seed": config.seed,
        "corpus": config.corpus.model_dump(mode="json"),
        "files": _stamps(run, config),
        **weight_settings(config),
    },
    body=_body,
    shared=True,
)
