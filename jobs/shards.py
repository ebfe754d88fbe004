"""Scoring in shards: Ray Data sends them to scorers, which ask the pool for rollouts.

The stages score, gradients (validation samples) and evaluate use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.cluster.workers import KeptWorker
from jobs.console import bar
from jobs.stage import base_model, prior_folder
from jobs.training_log import follow
from minirec.config.run import Config
from minirec.config.scoring import ScoringConfig
from minirec.corpus.table import SampleFile, count_samples
from minirec.errors import ArtifactError, EngineError
from minirec.resources.allocation import Allocation
from minirec.store.files import in_threads, intact
from minirec.store.remote import located
from minirec.store.run import Run
from minirec.store.tables import check_array, check_table, read_table

if TYPE_CHECKING:
    from actors.scoring.spec import ScoringSpec
    from jobs.cluster.session import Session


def scoring_spec(
    run: Run,
    config: Config,
    session: Session,
    *,
    split: str,
    output: str,
    item_table: str,
    adapter: Path | None,
    scoring: ScoringConfig | None,
    limit: int | None = None,
    trained: frozenset[int] = frozenset(),
) -> ScoringSpec:
    """Start the pool, if the work has rollouts; return the spec of the scorers for one split and
    policy. `trained` are the samples that the policy has seen, see `jobs.stages.score`."""
    from actors.engines.engine import Adapter, most_prompts_per_call
    from actors.scoring.spec import ScoringSpec

    model_path = base_model(run, config)
    if scoring is not None and config.scores_forced:
        session.make_room("score", engines=False)
        pool = None
    else:
        pool = session.pool(model_path, beside="score")
    return ScoringSpec(
        corpus=str(run.path("corpus")),
        split=split,
        output=str(run.path(output)),
        item_table=str(run.path(item_table)),
        model_path=model_path,
        model=config.model,
        reward=config.reward,
        adapter=None if adapter is None else str(adapter),
        scoring=scoring,
        shard_size=config.scoring.shard_size,
        prompts_per_call=most_prompts_per_call(config),
        seed=config.seed,
        pool=pool,
        policy_adapter=None if adapter is None else Adapter(str(adapter)),
        threads=session.allocation.scorer.cpus,
        device="cuda" if session.allocation.scorer.gpus else "cpu",
        limit=limit,
        prior=prior_folder(run, config, "base" if adapter is None else adapter.parent.name),
        trained=trained,
        orders=0 if scoring is not None or split == "train" else config.evaluation.orders,
        orders_keep=config.evaluation.orders_keep,
        rerank="none" if scoring is not None or split == "train" else config.evaluation.rerank,
    )


def score_shards(
    specs: list[ScoringSpec],
    config: Config,
    allocation: Allocation,
    *,
    label: str,
    say: Callable[[str], None] = print,
    scorer: type | None = None,
) -> None:
    """Score the shards of all specs whose file is missing or damaged, in one pass of Ray Data.

    Args:
        label: name of the work in the progress bar and in errors.
        say: receives each line for the user.
        scorer: used by benchmarks instead of `actors.scoring.shards.Scorer`.

    Raises:
        EngineError: a scorer failed, or no shard was finished in scoring.shard_deadline_s.
    """
    import ray
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError

    from actors.causes import cause
    from actors.scoring.shards import Scorer

    missing, total = _missing(specs, say)
    done = total - len(missing)
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # otherwise a wrapper hides the cause
    context.execution_no_progress_timeout_s = config.scoring.shard_deadline_s
    with bar(label, total) as progress:
        progress.update(done, "shards")
        if not missing:
            return
        most = min(allocation.scorers, len(missing))
        if most > 1 and scorer is None:
            _encode_items([specs[number] for number, _ in missing], config, allocation, label)
        rows = [{"spec": number, "shard": shard} for number, shard in missing]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            scorer or Scorer,
            fn_constructor_args=(specs,),
            batch_size=1,
            # With a minimum of 1, the other actors continue when a node leaves.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=most,
                initial_size=most,
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=allocation.scorer.cpus,
            num_gpus=allocation.scorer.gpus or None,
        )
        try:
            for _ in results.iter_rows():
                done += 1
                progress.update(done, "shards")
        except ExecutionTimeoutError as error:
            raise EngineError(
                f"{label} finished no shard in {config.scoring.shard_deadline_s:g} s, after {done} "
                f"of {total}; raise scoring.shard_deadline_s or lower scoring.shard_size"
            ) from error
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"{label} stopped after {done} of {total} shards: {cause(error)}; "
                f"run the same command again to score the missing shards"
            ) from error


def _encode_items(
    specs: list[ScoringSpec], config: Config, allocation: Allocation, label: str
) -> None:
    """Write the missing item tables, each in one task; several scorers would all encode them."""
    import ray

    from actors.causes import cause
    from actors.scoring.policy import encode_items

    missing = {spec.item_table: spec for spec in specs if not located(spec.item_table).exists()}
    # After one call, the process ends and frees its memory.
    shape = {"num_cpus": allocation.scorer.cpus, "num_gpus": allocation.scorer.gpus}
    task = ray.remote(**shape, max_calls=1)(encode_items)
    limit = config.scoring.shard_deadline_s
    running = [task.remote(spec) for spec in missing.values()]
    try:
        for one in running:
            ray.get(one, timeout=limit)
    except ray.exceptions.GetTimeoutError as error:
        for one in running:
            ray.cancel(one, force=True)
        raise EngineError(
            f"{label} encoded no item table in {limit:g} s; raise scoring.shard_deadline_s"
        ) from error
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"{label} stopped before its shards, at the vectors of the items: {cause(error)}; run "
            f"the same command again"
        ) from error


def score_on_kept(
    specs: list[ScoringSpec],
    worker: KeptWorker,
    config: Config,
    allocation: Allocation,
    *,
    label: str,
    say: Callable[[str], None] = print,
) -> None:
    """Like `score_shards`, but in the kept training worker."""
    from actors.scoring.shards import ShardsSpec, score_loop

    missing, total = _missing(specs, say)
    if not missing:
        return
    files = [specs[number].part(shard) for number, shard in missing]

    def state() -> tuple[int, str]:
        there = {file for folder in {f.parent for f in files} for file in folder.glob("part-*")}
        return total - len(files) + sum(file in there for file in files), "shards"

    with follow(label, total, state, at=files[0].parent):
        # The number of threads stays that of a scorer, because the bytes depend on it.
        device = "cuda" if allocation.worker.gpus else "cpu"
        specs = [replace(spec, device=device) for spec in specs]
        work = ShardsSpec(specs, missing, config.scoring.shard_deadline_s)
        worker.run(
            score_loop,
            {"spec": work},
            max_failures=config.training.max_failures,
            limit=f"one shard takes longer than scoring.shard_deadline_s, {work.deadline_s:g} s",
        )


def _missing(
    specs: list[ScoringSpec], say: Callable[[str], None]
) -> tuple[list[tuple[int, int]], int]:
    """The missing or damaged shards as (index of the spec, shard), and the number of all shards.

    The first shard counts as missing if the item vectors are missing: a scorer makes both.
    """
    shards = [(number, shard) for number in by_policy(specs) for shard in _shards(specs[number])]
    files = [specs[number].part(shard) for number, shard in shards]
    there = in_threads(lambda file: intact(file, check_table, say=say), files)
    # `intact` also removes damaged item vectors, so it is called for each table.
    tables = {
        table: intact(located(table), check_array, say=say)
        for table in {spec.item_table for spec in specs}
    }
    missing = [
        (number, shard)
        for (number, shard), done in zip(shards, there, strict=True)
        if not done or (shard == 0 and not tables[specs[number].item_table])
    ]
    return missing, len(shards)


def by_policy(specs: Sequence[ScoringSpec]) -> list[int]:
    """The indices of the specs, those of one policy one after the other.

    Shards are dealt in this order, so that a scorer loads each policy at most once.
    """
    first: dict[tuple[object, ...], int] = {}
    for number, spec in enumerate(specs):
        first.setdefault(spec.policy, number)
    return sorted(range(len(specs)), key=lambda number: (first[specs[number].policy], number))


def _shards(spec: ScoringSpec) -> range:
    samples = count_samples(located(spec.corpus), spec.split)
    return range(math.ceil(len(spec.rows(samples)) / spec.shard_size))


def parts(
    spec: ScoringSpec, columns: list[str] | None = None, *, folder: Path | None = None
) -> Iterator[pa.Table]:
    """The finished shards of a spec in order, one at a time.

    Args:
        columns: columns to read besides sample_id; default all.
        folder: of the files; default ``spec.output``.

    Raises:
        ArtifactError: a file or a sample is missing, duplicated or unknown.
    """
    folder = folder or located(spec.output)
    samples = SampleFile(located(spec.corpus), spec.split)
    rows = spec.rows(len(samples))
    names = columns and ["sample_id", *columns]
    found = sorted(folder.glob("part-*.parquet"))
    wanted = [folder / spec.part(shard).name for shard in _shards(spec)]
    if found != wanted:
        odd = min(set(found) ^ set(wanted))
        raise ArtifactError(
            f"{folder} holds {len(found)} shards of {len(wanted)}, first difference {odd.name}; "
            f"delete {folder} and run the same command again"
        )
    for number, path in enumerate(wanted):
        start = number * spec.shard_size
        expected = samples.ids(rows[start : start + spec.shard_size])
        table = read_table(path, names)
        if table["sample_id"].to_pylist() != expected:
            raise ArtifactError(
                f"{path} holds {table.num_rows} rows for {len(expected)} samples, or other "
                f"samples; delete it and run the same command again"
            )
        yield table


def forward_tokens(folder: Path) -> int:
    """Forward-equivalent tokens of the finished shards of scoring or of gradients in a folder."""
    name = "forward_tokens"
    shards = folder.glob("part-*.parquet")
    return sum(sum(read_table(part, [name])[name].to_pylist()) for part in shards)


def merged(spec: ScoringSpec, *, folder: Path | None = None) -> pa.Table:
    """All finished shards of a spec as one table; see `parts`."""
    return pa.concat_tables(parts(spec, folder=folder))
