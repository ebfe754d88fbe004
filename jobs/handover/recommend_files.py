"""`minirec recommend --users`: recommendations for a file of users, through Ray Data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from actors.serving.recommender import Recommender, RecommenderSpec
from jobs.cluster.session import Session
from jobs.console import quiet, say
from jobs.handover.recommend import recommender_spec, trained_run
from jobs.handover.user_files import (
    Users,
    format_of,
    read_items,
    read_users,
    refused_path,
    write_ranked,
    write_refused,
)
from minirec.errors import CorpusError, EngineError
from minirec.store.tables import read_table

OUTPUT = pa.schema(
    [
        ("items", pa.list_(pa.string())),
        ("titles", pa.list_(pa.string())),
        ("cosines", pa.list_(pa.float64())),
        ("analysis", pa.string()),
    ]
)
BLOCK = 256


class Rows:
    """Called by Ray Data with batches of users."""

    def __init__(self, spec: RecommenderSpec, top: int):
        self.recommender, self.top = Recommender(spec), top
        self.key_of = {item: key for key, item in self.recommender.keys.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Column history, as keys, to columns of `OUTPUT`, with the row's number."""
        keys = self.recommender.keys
        histories = [[keys[key] for key in history] for history in batch["history"].to_pylist()]
        found = self.recommender.recommend(histories, top=[self.top] * len(histories))
        rows = [
            {
                "items": [self.key_of[i] for i in one.items],
                "titles": [self.recommender.titles[i] for i in one.items],
                "cosines": one.cosines,
                "analysis": one.analysis,
            }
            for one in found
        ]
        made = pa.Table.from_pylist(rows, schema=OUTPUT)
        return made.append_column("row", batch["row"])


def recommend_files(
    run_dir: str,
    users: Path,
    out: Path,
    *,
    items: Path | None = None,
    top: int = 10,
    analysis: bool = True,
) -> None:
    """Rank for every usable user of a file; `out` appears whole.

    A user whose row is not usable is left out, and the row goes to a file beside `out`, see
    `jobs.handover.user_files.refused_path`.

    Args:
        run_dir: of a run that was trained and evaluated.
        users: Parquet or JSON lines with ``user`` and ``history``, a list of item keys, oldest
            first.
        out: Parquet or JSON lines, in the order of `users`, each with the id as it was given.
        items: Parquet or JSON lines with ``key``, ``title`` and maybe ``text`` of items that are
            not in the catalogue.
        top: items for each user.
        analysis: off: nothing is written before the items are ranked.

    Raises:
        ArtifactError: the run has no trained policy.
        CorpusError: a file cannot be read, a column is missing, a new item is not usable, or no
            user is.
    """
    run, config = trained_run(run_dir)
    _check_name(out, users, items)
    known = {*read_table(run.path("corpus", "items.parquet"))["key"].to_pylist()}
    new = read_items(items, known) if items else ()
    given = read_users(users, known | {key for key, _, _ in new})
    _check_usable(users, out, given, example=min(known))
    table = pa.table(
        {
            "history": pa.array(given.histories, pa.list_(pa.string())),
            "row": pa.array(range(len(given.histories)), pa.int64()),
        }
    )
    quiet(config)
    with Session(config) as session:
        session.start_ray()
        shape = session.allocation.scorer
        session.wait_for_room([shape.bundle()])
        spec = recommender_spec(
            run, config, analysis=analysis, new_items=new, threads=max(1, int(shape.cpus))
        )
        blocks = _ranked(table, replace(spec, gpus=shape.gpus), top)
    result = pa.concat_tables(blocks).sort_by("row").drop_columns(["row"])
    assert len(result) == len(table), "a user is lost or doubled"
    aside = write_refused(out, given.refused)
    write_ranked(out, given.ids, result)
    say(f"recommend: {len(result):,} users -> {out}")
    if aside is not None:
        say(f"recommend: {len(given.refused):,} rows refused -> {aside}; {_first(given)}")


def _check_name(out: Path, users: Path, items: Path | None) -> None:
    """Refuse an output of another kind, or one that would replace an input."""
    format_of(out)
    if out.is_dir():
        raise CorpusError(f"--out {out} is a folder; give the name of a file")
    inputs = {path.resolve() for path in (users, items) if path}
    for written in (out, refused_path(out)):
        if written.resolve() in inputs:
            raise CorpusError(f"--out {out} would replace {written}, an input; give another name")


def _check_usable(users: Path, out: Path, given: Users, *, example: str) -> None:
    """Refuse a file of which no row can be ranked."""
    if given.histories:
        return
    aside = write_refused(out, given.refused)
    raise CorpusError(
        f"{users}: none of {len(given.refused):,} rows can be ranked; {_first(given)}; all are in "
        f"{aside}; give user and history, a list of keys of corpus/items.parquet such as "
        f"{example!r}, or new items with --items"
    )


def _first(given: Users) -> str:
    first = given.refused[0]
    return f"the first is row {first.line} of the file: {first.reason}"


def _ranked(table: pa.Table, spec: RecommenderSpec, top: int) -> list[pa.Table]:
    import ray

    from actors.causes import cause

    ray.data.DataContext.get_current().raise_original_map_exception = True
    made = ray.data.from_arrow(
        [table.slice(i, BLOCK) for i in range(0, len(table), BLOCK)]
    ).map_batches(
        Rows,
        fn_constructor_args=(spec, top),
        batch_size=BLOCK,
        batch_format="pyarrow",
        concurrency=1,
        num_cpus=spec.threads,
        num_gpus=spec.gpus,
    )
    try:
        return [ray.get(ref) for ref in made.to_arrow_refs()]
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"the ranking of the users stopped: {cause(error)}; nothing was written"
        ) from error
