"""`minirec recommend --users`: recommend for a file of users, with Ray Data."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from actors.serving.recommender import Recommender, RecommenderSpec
from jobs.cluster.session import Session
from jobs.console import quiet, say
from jobs.handover.recommend import finished_run, recommender_spec
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
SCORES = pa.field("scores", pa.list_(pa.float64()))
"""The column after ``cosines`` if the policy has a prior."""
BLOCK = 256


class Rows:
    """Ray Data calls it with batches of users."""

    def __init__(self, spec: RecommenderSpec, top: int):
        self.recommender, self.top = Recommender(spec), top
        self.key_of = {item: key for key, item in self.recommender.keys.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Columns history (item keys), ratings and row -> the columns of `OUTPUT`, `SCORES` and
        row."""
        keys = self.recommender.keys
        histories = [[keys[key] for key in history] for history in batch["history"].to_pylist()]
        ratings = batch["ratings"].to_pylist()
        top = [self.top] * len(histories)
        found = self.recommender.recommend(histories, top=top, ratings=ratings)
        rows = [
            {
                "items": [self.key_of[i] for i in one.items],
                "titles": [self.recommender.titles[i] for i in one.items],
                "cosines": one.cosines,
                "scores": one.scores,
                "analysis": one.analysis,
            }
            for one in found
        ]
        with_prior = self.recommender.prior is not None
        schema = OUTPUT.insert(3, SCORES) if with_prior else OUTPUT
        made = pa.Table.from_pylist(rows, schema=schema)
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
    """Rank the items for each valid user of a file. Invalid rows go to `refused_path(out)`.

    Args:
        run_dir: of a run that was trained and evaluated.
        users: Parquet or JSON lines with ``user`` and ``history``, a list of item keys, oldest
            first, and optionally ``ratings`` of these items.
        out: Parquet or JSON lines; in the order of `users`, with unchanged ids.
        items: Parquet or JSON lines with ``key``, ``title`` and optionally ``text``, for items
            outside the catalogue.
        top: number of items for each user.
        analysis: whether the policy writes an analysis before it ranks.

    Raises:
        ArtifactError: the run has no trained policy, or it was not evaluated.
        CorpusError: a file cannot be read, a column is missing, a new item is invalid, or no user
            is valid.
    """
    run, config = finished_run(run_dir, "train")
    _check_name(out, users, items)
    known = {*read_table(run.path("corpus", "items.parquet"))["key"].to_pylist()}
    new = read_items(items, known) if items else ()
    given = read_users(users, known | {key for key, _, _ in new})
    if not given.histories:
        aside = write_refused(out, given.refused)
        raise CorpusError(
            f"{users}: none of {len(given.refused):,} rows can be ranked; {_first(given)}; all are "
            f"in {aside}; give user and history, a list of keys of corpus/items.parquet such as "
            f"{min(known)!r}, or new items with --items"
        )
    table = pa.table(
        {
            "history": pa.array(given.histories, pa.list_(pa.string())),
            "ratings": pa.array(given.ratings, pa.list_(pa.float64())),
            "row": pa.array(range(len(given.histories)), pa.int64()),
        }
    )
    quiet(config)
    with Session(config) as session:
        session.start_ray()
        shape = session.allocation.scorer
        session.wait_for_room([shape.bundle()])
        resources = {"threads": shape.cpus, "gpus": shape.gpus}
        spec = recommender_spec(run, config, analysis=analysis, new_items=new, **resources)
        blocks = _ranked(table, spec, top)
    result = pa.concat_tables(blocks).sort_by("row").drop_columns(["row"])
    assert len(result) == len(table), "a user is missing or duplicated"
    aside = write_refused(out, given.refused)
    write_ranked(out, given.ids, result)
    say(f"recommend: {len(result):,} users -> {out}")
    if aside is not None:
        say(f"recommend: {len(given.refused):,} rows refused -> {aside}; {_first(given)}")


def _check_name(out: Path, users: Path, items: Path | None) -> None:
    """Refuse an output with an unknown ending, or one that would replace an input."""
    format_of(out)
    if out.is_dir():
        raise CorpusError(f"--out {out} is a folder; give the name of a file")
    inputs = {path.resolve() for path in (users, items) if path}
    for written in (out, refused_path(out)):
        if written.resolve() in inputs:
            raise CorpusError(f"--out {out} would replace {written}, an input; give another name")


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
