"""`minirec prepare`: read interactions and catalogue, write corpus/."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.fingerprint import weight_settings
from jobs.stage import Stage, Work
from minirec.errors import CorpusError
from minirec.store.files import digest, read_json, remove
from minirec.store.run import Run, flatten, peak_memory_mib

if TYPE_CHECKING:
    from jobs.corpus import Made
    from minirec.config.corpus import CorpusConfig
    from minirec.config.run import Config
    from minirec.corpus.files.sources import Located
    from minirec.corpus.files.spec import FileSpec


ADDITIONS = ("appended", "appended_metadata")
"""The settings of the corpus that may grow: a finished corpus is then extended."""


def _base_settings(corpus: CorpusConfig) -> dict[str, Any]:
    return corpus.model_dump(mode="json", exclude=set(ADDITIONS))


def _same_base(record: dict[str, Any] | None, corpus: CorpusConfig) -> bool:
    """Whether a corpus was made with these settings, up to what was appended."""
    wanted = flatten({"corpus": _base_settings(corpus)})
    return record is not None and wanted.items() <= record["settings"].items()


def made_with(run: Run, corpus: CorpusConfig) -> bool:
    """Whether a run has a corpus with these settings. The contents of the files are not checked."""
    record = run.done("prepare")
    if record is None or not _same_base(record, corpus):
        return False
    names = [one["file"] for one in record["settings"].get("appended", [])]
    catalogues = [one["metadata"] for one in record["settings"].get("appended", [])]
    return [names, catalogues] == [corpus.appended, _catalogues(corpus)]


def _catalogues(corpus: CorpusConfig) -> list[str | None]:
    """The own catalogue of each appended file, or None."""
    missing = len(corpus.appended) - len(corpus.appended_metadata)
    return [*corpus.appended_metadata, *[None] * missing]


def _stamps(run: Run, config: Config) -> list[str]:
    """Name, size and hash of each input file, to detect a changed file.

    File times do not count, because a job works on a copy. If the files are missing but the corpus
    is finished, the recorded values are returned. Downloads have their own record.
    """
    from minirec.corpus.files import sources

    corpus = config.corpus
    if corpus.source == "demo" or corpus.download:
        return []
    record = run.done("prepare")
    before = record["settings"]["files"] if record and _same_base(record, corpus) else None
    try:
        located = sources.locate(corpus, weight=config.reward.item_weight)
    except CorpusError:
        if before is None:
            raise
        return before
    return _stamped((*located.items, *located.events))


def _appended(run: Run, config: Config, base: list[str]) -> dict[str, Any]:
    """The entry ``appended`` of the settings: each file with its stamps; empty without any.

    Args:
        base: the stamps of the corpus before.

    Raises:
        CorpusError: the catalogue of the corpus has changed.
    """
    from minirec.corpus.files import sources

    corpus, record = config.corpus, run.done("prepare")
    before = record["settings"].get("appended", []) if record else []
    entries = []
    each = zip(corpus.appended, _catalogues(corpus), corpus.additions, strict=True)
    for number, (file, catalogue, settings) in enumerate(each):
        entry = {"file": file, "metadata": catalogue}
        known = before[number] if number < len(before) else {}
        try:
            located = sources.locate(settings, weight=config.reward.item_weight)
        except CorpusError:
            if entry.items() <= known.items() and _same_base(record, corpus):
                entries.append(known)
                continue
            raise
        stamps = _stamped(located.events)
        if catalogue is not None:
            stamps += _stamped(located.items)
        elif not located.inline:
            changed = set(_stamped(located.items)) - set(base)
            if changed:
                raise CorpusError(
                    f"the catalogue has changed since the corpus was made, it is now "
                    f"{min(changed)}; restore it and name the new one in "
                    f"corpus.appended_metadata, or prepare all events together"
                )
        entries.append(entry | {"files": stamps})
    return {"appended": entries} if entries else {}


def _settings(run: Run, config: Config) -> dict[str, Any]:
    base = _stamps(run, config)
    return {
        "seed": config.seed,
        "corpus": _base_settings(config.corpus),
        "files": base,
        **_appended(run, config, base),
        **weight_settings(config),
    }


def _extends(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the new settings differ from those of a finished corpus only by further files."""
    old, new = (settings.get("appended", []) for settings in (before, now))
    one, other = ({k: v for k, v in s.items() if k != "appended"} for s in (before, now))
    return digest(one) == digest(other) and len(old) < len(new) and new[: len(old)] == old


def _stamped(specs: Iterable[FileSpec]) -> list[str]:
    by_path = {spec.path: spec for spec in specs}
    # A column may be in the names of folders only, so these count where it is used.
    names = {
        path: "".join(f"{column}={value}/" for column, value in by_path[path].partition.items())
        + Path(path).name
        for path in sorted(by_path)
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


def _made(work: Work) -> Made:
    """The corpus of the settings with all appended files; a corpus that has some of them stays."""
    from jobs.corpus import Made, downloaded, from_demo, from_files

    run, corpus = work.run, work.config.corpus
    weight = work.config.reward.item_weight
    folder = run.path("corpus")
    if corpus.source == "demo":
        return from_demo(corpus, folder, work.config.seed, weight=weight)
    from jobs.append import held
    from minirec.corpus.files import sources

    beside = run.root.with_name(f"{run.root.name}-rejected.parquet")
    appended = work.settings.get("appended", [])
    files = [entry["files"] for entry in appended]
    # Only a corpus that can be extended still has its record.
    there = None if run.done("prepare") is None else held(folder, files)
    made = None
    if there is None:
        if run.done("prepare") is not None:
            run.say("prepare: the corpus is damaged or cannot be extended; it is made again")
        located = sources.locate(downloaded(corpus), weight=weight)
        made = _with_reader(work, located, from_files, located, corpus, folder, beside, weight)
        there = 0
    return (
        _extended(work, folder, beside, there)
        or made
        or Made(read_json(folder / "corpus.json"), peak_memory_mib())
    )


def _extended(work: Work, folder: Path, beside: Path, there: int) -> Made | None:
    """Add the files of `corpus.appended` to a corpus, all of them or none; None without any.

    `there`: how many of them the corpus has already.
    """
    from jobs.append import append_files
    from minirec.corpus.files import sources

    run, made, before = work.run, None, folder
    weight = work.config.reward.item_weight
    entries = work.settings.get("appended", [])[there:]
    settings = work.config.corpus.additions[there:]
    if not entries:
        return None
    between = [run.path(f".corpus-{number}") for number in range(len(entries) - 1)]
    try:
        for entry, one, out in zip(entries, settings, [*between, folder], strict=True):
            located = sources.locate(one, weight=weight)
            own = entry["metadata"] is not None
            arguments = (located, one, before, beside, entry["files"], weight, own, out)
            made = _with_reader(work, located, append_files, *arguments)
            before, added = out, made.summary["appended"][-1]
            run.say(
                f"prepare: {Path(entry['file']).name} adds {added['events']:,} events, "
                f"{added['samples']:,} samples, {added['users']:,} users and {added['items']:,} "
                f"items"
            )
    finally:
        for left in between:
            remove(left)
    return made


def _with_reader(
    work: Work, located: Located, function: Callable[..., Made], *arguments: object
) -> Made:
    """Call `function` with these arguments and a reader for the located files."""
    from minirec.corpus import reading

    most = int(work.config.resources.corpus_mib * 2**20)
    if reading.text_bytes((*located.events, *located.items)) <= most:
        return function(*arguments, reading.LocalReader())
    from actors.corpus.shuffle import RayReader
    from jobs.cluster.task import in_task

    work.session.start_ray()
    work.session.wait_for_room([{"CPU": 1}])
    reader = RayReader(part_bytes=most // 5)
    return in_task("prepare", function, *arguments, reader, spills_to=work.session.ray_folder)


def _body(work: Work) -> None:
    """Write corpus/, or ``<run_dir>-rejected.parquet`` if too many rows are rejected."""
    from minirec.corpus import rejects, split, weights
    from minirec.evaluation.headline import shortcuts_sentence

    run, weight = work.run, work.config.reward.item_weight
    made = _made(work)
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
    twice = rejected.get(rejects.DUPLICATE, 0)
    duplicates = f", {twice:,} of them as {rejects.DUPLICATE}s" if twice else ""
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
    settings=_settings,
    body=_body,
    extends=_extends,
    shared=True,
)
