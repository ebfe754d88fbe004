"""`minirec recommend --users`: recommendations for a file of users, through Ray Data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from actors.recommending import Recommender, RecommenderSpec
from jobs.console import quiet, say
from jobs.recommend import recommender_spec, trained_run
from jobs.session import Session
from minirec.artifacts import atomic, read_table
from minirec.errors import CorpusError, EngineError

FORMATS = (".parquet", ".jsonl")
OUTPUT = pa.schema(
    [
        ("user", pa.string()),
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
        """Columns user and history, as keys, to columns of `OUTPUT`, with the row's number."""
        keys, users = self.recommender.keys, batch["user"].to_pylist()
        histories = [[keys[key] for key in history] for history in batch["history"].to_pylist()]
        found = self.recommender.recommend(histories, top=[self.top] * len(users))
        rows = [
            {
                "user": user,
                "items": [self.key_of[i] for i in one.items],
                "titles": [self.recommender.titles[i] for i in one.items],
                "cosines": one.cosines,
                "analysis": one.analysis,
            }
            for user, one in zip(users, found, strict=True)
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
    """Rank for every user of a file; `out` appears whole.

    Args:
        run_dir: of a run that was trained and evaluated.
        users: Parquet or JSON lines with ``user`` and ``history``, a list of item keys, oldest
            first.
        out: Parquet or JSON lines, in the order of `users`.
        items: Parquet or JSON lines with ``key``, ``title`` and maybe ``text`` of items that are
            not in the catalogue.
        top: items for each user.
        analysis: off: nothing is written before the items are ranked.

    Raises:
        ArtifactError: the run has no trained policy.
        CorpusError: a column is missing, a history is empty or names an unknown item.
    """
    run, config = trained_run(run_dir)
    if out.suffix not in FORMATS:
        raise CorpusError(f"{out} is neither .parquet nor .jsonl; name --out by one of them")
    new = read_items(items) if items else ()
    known = {*read_table(run.path("corpus", "items.parquet"))["key"].to_pylist()}
    if doubled := [key for key, _, _ in new if key in known]:
        raise CorpusError(f"{items}: item {doubled[0]!r} is in the catalogue already; leave it out")
    table = read_users(users, known | {key for key, _, _ in new})
    table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
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
    _write(out, result)
    say(f"recommend: {len(result):,} users -> {out}")


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


def read_users(path: Path, known: set[str]) -> pa.Table:
    """Columns user (string) and history (list of keys) of a file.

    Raises:
        CorpusError: as `recommend_files`.
    """
    table = _read(path)
    for name in ("user", "history"):
        if name not in table.column_names:
            raise CorpusError(
                f"{path} has no column {name}; it needs user and history, a list of item keys"
            )
    rows = zip(table["user"].to_pylist(), table["history"].to_pylist(), strict=True)
    users, histories = [], []
    for number, (user, history) in enumerate(rows, 1):
        if not isinstance(history, list) or not history:
            raise CorpusError(
                f"{path} row {number}, user {user}: the history is empty or no list; give item "
                f"keys, oldest first"
            )
        keys = [str(key) for key in history]
        strange = next((key for key in keys if key not in known), None)
        if strange is not None:
            raise CorpusError(
                f"{path} row {number}, user {user}: no item has the key {strange!r}; give keys of "
                f"corpus/items.parquet, and new items with --items"
            )
        users.append(str(user))
        histories.append(keys)
    if not users:
        raise CorpusError(f"{path} holds no user")
    return pa.table({"user": users, "history": histories})


def read_items(path: Path) -> tuple[tuple[str, str, str], ...]:
    """Keys, titles and texts of new items; the text may be missing.

    Raises:
        CorpusError: a column is missing, or a key stands there twice.
    """
    table = _read(path)
    for name in ("key", "title"):
        if name not in table.column_names:
            raise CorpusError(f"{path} has no column {name}; it needs key and title, maybe text")
    texts: Sequence[Any] = [""] * len(table)
    if "text" in table.column_names:
        texts = table["text"].to_pylist()
    rows = zip(table["key"].to_pylist(), table["title"].to_pylist(), texts, strict=True)
    items = tuple((str(key), str(title), str(text or "")) for key, title, text in rows)
    keys = [key for key, _, _ in items]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise CorpusError(f"{path}: the key {twice!r} stands there twice; remove one")
    return items


def _read(path: Path) -> pa.Table:
    if path.suffix not in FORMATS:
        raise CorpusError(f"{path} is neither .parquet nor .jsonl")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pyarrow.json.read_json(path)
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing; give an existing file") from None
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from None


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as file:
        if path.suffix == ".parquet":
            pq.write_table(table, file)
        else:
            for row in table.to_pylist():
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
