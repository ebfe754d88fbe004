"""`minirec refresh`: count new events in the collaborative prior, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import quiet, say
from jobs.handover.recommend import REFRESHED, finished_run, prior_inputs
from jobs.run import holding
from minirec.config.corpus import CorpusConfig
from minirec.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

    from minirec.prior.refresh import NewEvents


def refresh(run_dir: str, files: Sequence[Path]) -> None:
    """Write a prior with all events of the corpus and of files into the run directory.

    `recommend`, `serve` and the exported policy then use it. Each call starts from the corpus, so
    `files` are all new events. Events of valid and test are counted too: they are known when the
    policy is deployed.

    Args:
        run_dir: of a run with a prior.
        files: interactions in the format of the corpus. A row that cannot be read, or whose item is
            not in the catalogue, is left out and reported.

    Raises:
        ArtifactError: the run has no corpus or no prior yet.
        ConfigError: the run has no prior.
        CorpusError: a file cannot be read, lacks a column, or has no usable row.
    """
    run, config = finished_run(run_dir)
    if config.model.prior == "none":
        raise ConfigError(
            f"{run.root} has no collaborative prior (model.prior=none), so there is nothing to "
            f"refresh"
        )
    finished_run(run_dir, "prepare", "prior")
    quiet(config)
    from minirec.prior.prior import weights_in
    from minirec.prior.refresh import refreshed
    from minirec.prior.serving import NEIGHBOURS, ServedPrior
    from minirec.store.files import atomic_dir

    with holding(run):
        corpus, settings = run.path("corpus"), config.corpus
        new = read_events(files, settings, corpus)
        counts, added = refreshed(
            corpus, new, same_time=settings.same_time, min_history=settings.min_history
        )
        scale, weights = weights_in(run.path("prior"))
        prior = ServedPrior(counts.condensed(NEIGHBOURS), tuple(weights), scale)
        with atomic_dir(run.path(REFRESHED)) as folder:
            prior.save(folder, inputs=prior_inputs(run), **added.__dict__)
    say(
        f"refresh: {added.events:,} new events of {added.users:,} users ({added.new_users:,} of "
        f"them new) are counted, and all events of the corpus -> {run.path(REFRESHED)}"
    )
    if added.known:
        say(f"refresh: {added.known:,} events were already counted (same user, item and time)")


def read_events(files: Sequence[Path], config: CorpusConfig, corpus: Path) -> NewEvents:
    """The usable events of files; says how many rows are left out, and why.

    Args:
        files: in the format of the interaction files of the corpus.
        config: of the corpus; its source, columns, ratings and order apply.
        corpus: folder of the corpus.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from minirec.corpus.files import event_types, times
    from minirec.corpus.files.parse import EVENTS
    from minirec.corpus.ids import known_key
    from minirec.prior.refresh import SPLITS, NewEvents
    from minirec.store.tables import read_table

    blocks = [block for file in files for block in _blocks(file, config)]
    table, dropped = event_types.counted(pa.concat_tables([EVENTS.empty_table(), *blocks]))
    for note in event_types.notes(dropped, rest=len(table)):
        say(f"refresh: {note}")
    good = table.filter(table["reason"].is_null())
    _report(table.filter(table["reason"].is_valid()), len(good), files)
    ms, number = good["time"].to_numpy(), good["number"].to_numpy()
    settled = times.settle(times.Seen.of(ms, number).reading, ms, number)
    place = good.schema.get_field_index("time")
    good = good.set_column(place, "time", pa.array(settled.ms)).filter(pa.array(~settled.bad))
    if settled.bad.any():
        say(f"refresh: {settled.bad.sum():,} events are left out, because their time is not usable")
    if config.min_rating is not None:
        good = good.filter(pc.greater_equal(good["rating"], config.min_rating))
    keys = read_table(corpus / "items.parquet", ["key"])["key"].to_pylist()
    ids = {key: item for item, key in enumerate(keys)}
    found = _mapped(good["item"], lambda key: ids.get(known_key(key, ids)), pa.int64())
    _report_unknown(good["item"].filter(found.is_null()), len(good))
    good, item = good.filter(found.is_valid()), found.drop_null()
    if files and not len(good):
        given = ", ".join(map(str, files))
        raise CorpusError(
            f"none of {len(table):,} rows of {given} can be counted; give events of items in "
            f"{corpus / 'items.parquet'}"
        )
    names = [read_table(corpus / f"{split}.parquet", ["user"])["user"] for split in SPLITS]
    users = {name for column in names for name in column.unique().to_pylist()}
    user = _mapped(good["user"], lambda name: known_key(name, users), pa.string())
    timed = config.columns.get("order") != "file"
    return NewEvents(user, item.to_numpy(), good["time"].to_numpy() if timed else None)


def _blocks(file: Path, config: CorpusConfig) -> list[pa.Table]:
    """The parsed rows of a file, `minirec.corpus.files.parse.EVENTS`."""
    from minirec.corpus.files.blocks import read_blocks
    from minirec.corpus.files.sources import (
        AMAZON_EVENTS,
        MOVIELENS_EVENTS,
        RECBOLE_EVENTS,
        TABLE_EVENTS,
    )
    from minirec.corpus.files.specs import event_columns, events_spec
    from minirec.corpus.files.vectorised import parse

    if not file.is_file():
        what = "is a folder; give files" if file.is_dir() else "is missing; give a file"
        raise CorpusError(f"{file} {what}")
    sources = {"amazon": AMAZON_EVENTS, "movielens": MOVIELENS_EVENTS, "recbole": RECBOLE_EVENTS}
    typed = config.source == "recbole"
    columns = sources.get(config.source, TABLE_EVENTS)
    columns, _ = event_columns(config, columns, [file], typed=typed)
    fix = "write events as in the files of the corpus"
    spec = events_spec(config, file, columns, typed=typed, fix=fix)
    found = []
    for block in read_blocks(spec):
        rows = parse(block, {str(file): spec})
        if block["line"][0].as_py() < 0:
            raise CorpusError(f"{file} {rows['raw'][0]}")
        found.append(rows)
    return found


def _mapped(column: pa.ChunkedArray, function: Callable[[str], Any], type: pa.DataType) -> Any:
    """The column with `function` applied to each distinct value."""
    import pyarrow as pa

    coded = column.combine_chunks().dictionary_encode()
    values = pa.array([function(value) for value in coded.dictionary.to_pylist()], type)
    return pa.chunked_array([values.take(coded.indices)])


def _report(bad: pa.Table, good: int, files: Sequence[Path]) -> None:
    """Say how many rows are malformed; refuse files without any other row."""
    if files and not good:
        first = f"; the first is {_place(bad)}" if len(bad) else ""
        names = ", ".join(map(str, files))
        raise CorpusError(
            f"none of {len(bad):,} rows of {names} is a usable event{first}; give a file with "
            f"events"
        )
    if len(bad):
        said = f"{len(bad):,} rows cannot be read and are left out"
        say(f"refresh: {said}; the first is {_place(bad)}")


def _place(bad: pa.Table) -> str:
    row = bad.slice(0, 1).to_pylist()[0]
    return f"{row['file']} line {row['line']}: {row['reason']}"


def _report_unknown(items: pa.ChunkedArray, of: int) -> None:
    if len(items):
        say(
            f"refresh: {len(items):,} of {of:,} events are left out, because their "
            f"{len(items.unique()):,} items are not in the catalogue; the first is "
            f"{items[0].as_py()[:80]!r}"
        )
