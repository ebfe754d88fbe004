"""What a comparison found: comparison.parquet, comparison.html and the tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.table import Table

from jobs.console import console
from jobs.training_log import read_log
from jobs.trials.diagnostics import gains, ndcg, own, shared_by_budget, utility
from jobs.trials.sweep_result import failure
from minirec.config.run import Config
from minirec.corpus import schema
from minirec.corpus.table import load_users
from minirec.evaluation import comparison_page
from minirec.evaluation.standings import Curve, Race, Trained, race, reached
from minirec.store.files import atomic, read_json, remove
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table
from minirec.trials.comparison import FREE, FULL, Contender

if TYPE_CHECKING:
    from ray.tune import ResultGrid

METRIC = "valid_ndcg@10"
Row = dict[str, Any]


def rows_of(
    results: ResultGrid, planned: Sequence[Contender], run: Run, config: Config, *, samples: int
) -> list[Row]:
    """A row of `schema.COMPARISON` for each trial, in planned order."""
    by_name = {Path(result.path).name: result for result in results}
    chosen = {t.name: t.config.selection.count(samples) for t in planned}
    curves = {t.name: curve(run, t, chosen=chosen[t.name]) for t in planned}
    there = _reached(planned, curves, reach=config.compare.reach)
    return [
        _row(t, by_name[t.name].error, run, curves[t.name], chosen=chosen[t.name]) | there[t.name]
        for t in planned
    ]


def _reached(
    planned: Sequence[Contender], curves: Mapping[str, Curve], *, reach: float
) -> dict[str, Row]:
    """Columns of a row that depend on the full-data trainings beside it; None: not reached."""
    best = [max(c.ndcg) for t in planned if t.method == FULL and (c := curves[t.name]).ndcg]
    goal = reach * float(np.mean(best)) if best else float("inf")
    found = {name: reached(one, goal=goal) for name, one in curves.items()}
    return {
        name: {
            f"reached_{what}": there and getattr(there, what)
            for what in ("step", "samples", "rollouts", "seconds")
        }
        for name, there in found.items()
    }


def _row(
    trial: Contender,
    error: BaseException | None,
    run: Run,
    found: Curve,
    *,
    chosen: int,
) -> Row:
    kept, dropped = (None, None) if error else gains(run, trial)
    log = read_log(own(run, trial).path("policy", "log.jsonl"))
    return {
        "trial": trial.name,
        "method": trial.method,
        "table": trial.table,
        "budget": trial.budget,
        "samples": chosen,
        "seed": trial.config.seed,
        "status": "failed" if error else "finished",
        "cause": failure(error) if error else None,
        "steps": len(log),
        "own_rollouts": found.own_rollouts,
        "own_seconds": found.own_seconds,
        "rollouts": found.charged_rollouts + found.own_rollouts,
        "seconds": found.charged_seconds + found.own_seconds,
        "dead_groups": float(np.mean([e["dead_groups"] for e in log])) if log else None,
        "gain_kept": kept,
        "gain_dropped": dropped,
        "valid_ndcg@10": None if error else float(ndcg(run, trial, "valid").mean()),
        "test_ndcg@10": None if error else float(ndcg(run, trial, "test").mean()),
        "best_valid_ndcg@10": max(found.ndcg, default=None),
    }


def curve(run: Run, trial: Contender, *, chosen: int) -> Curve:
    """Validations during the training on `chosen` samples, with all that was spent before each.

    Validations are charged to nobody: a training of one's own needs none.
    """
    trained, training = own(run, trial), trial.config.training
    log = read_log(trained.path("policy", "log.jsonl"))
    rollouts = np.cumsum([entry["rollouts"] for entry in log], dtype=np.int64)
    step_seconds = [entry["seconds"] - entry.get("validation_seconds", 0.0) for entry in log]
    stages = {cost["stage"]: cost["seconds"] for cost in trained.costs()}
    validation = sum(entry.get("validation_seconds", 0.0) for entry in log)
    start = max(0.0, stages.get("train", 0.0) - validation - sum(step_seconds))
    start += stages.get("select", 0.0)
    seconds = np.cumsum(step_seconds) + start
    charged = charge(run, trial)
    at = [i for i, entry in enumerate(log) if METRIC in entry]
    return Curve(
        ndcg=[log[i][METRIC] for i in at],
        steps=[i + 1 for i in at],
        samples=[min(chosen, (i + 1) * training.prompts_per_step) for i in at],
        rollouts=[charged["rollouts"] + int(rollouts[i]) for i in at],
        seconds=[charged["seconds"] + float(seconds[i]) for i in at],
        own_rollouts=int(rollouts[-1]) if log else 0,
        own_seconds=float(seconds[-1]) if log else start,
        charged_rollouts=charged["rollouts"],
        charged_seconds=charged["seconds"],
    )


def charge(run: Run, trial: Contender) -> dict[str, Any]:
    """Rollouts and seconds of the stages whose output the method looks at."""
    read = {"proxy", "score"} if trial.method not in FREE else set()
    if trial.config.selection.needs_lora_gradients:
        read.add("gradients")
    costs = [cost for cost in run.costs() if cost["stage"] in read]
    return {name: sum(cost[name] for cost in costs) for name in ("rollouts", "seconds")}


def read_rows(run: Run) -> list[Row]:
    """The rows of comparison.parquet."""
    return read_table(run.path("comparison.parquet")).to_pylist()


def whole_rows(run: Run, folder: str) -> list[Row]:
    """Rows, of this command or a former one, of the trials in `folder` that need not run again."""
    if not run.path("comparison.parquet").exists():
        return []
    left = ("selection.parquet", "ranks.parquet", "policy/log.jsonl")
    return [
        row
        for row in read_rows(run)
        if row["status"] == "finished"
        and all(run.path(folder, row["trial"], name).exists() for name in left)
    ]


def drop_outdated(run: Run, planned: Sequence[Contender]) -> None:
    """Delete trials that were selected by gradients of which there are others now."""
    for trial in planned:
        before = own(run, trial).done("select")
        if not trial.config.selection.needs_lora_gradients or before is None:
            continue
        if before["inputs"].get("gradients") != run.fingerprint("gradients"):
            run.say(f"{trial.name}: was selected by other gradients; it is made again")
            remove(own(run, trial).root)


def write_rows(run: Run, rows: list[Row]) -> None:
    """Write comparison.parquet."""
    table = pa.Table.from_pylist(rows, schema=schema.COMPARISON)
    write_table(run.path("comparison.parquet"), table)


def publish(run: Run, config: Config, planned: Sequence[Contender], rows: list[Row]) -> None:
    """Write comparison.html and show the result."""
    by_name = {row["trial"]: row for row in rows}
    found = [(trial, by_name[trial.name]) for trial in planned]
    curves = {trial.name: curve(run, trial, chosen=row["samples"]) for trial, row in found}
    # Anew, since rows may be of commands with other trainings on full data.
    there = _reached(planned, curves, reach=config.compare.reach)
    found = [(trial, row | there[trial.name]) for trial, row in found]
    finished = [(trial, row) for trial, row in found if row["status"] == "finished"]
    trained = [
        Trained(row, ndcg(run, trial, "test"), curves[trial.name]) for trial, row in finished
    ]
    users = load_users(run.path("corpus"), "test")
    races = [
        race(
            trained,
            table=table,
            references=config.compare.references,
            users=users,
            resamples=config.evaluation.bootstrap,
            seed=config.seed,
        )
        for table in dict.fromkeys(trial.table for trial in planned if trial.table)
    ]
    page = comparison_page.render(
        run.root.name,
        races=races,
        rows=[row for _, row in found],
        reach=config.compare.reach,
        samples=int(read_json(run.path("corpus", "corpus.json"))["samples"]["train"]),
        users=len(np.unique(users)),
        overlap=shared_by_budget(run, [trial for trial, _ in finished]),
        foretold=utility(run, config, [trial for trial, _ in finished]),
    )
    with atomic(run.path("comparison.html")) as file:
        file.write(page.encode())
    for one in races:
        _print(one, config)
    console.print(f"comparison: {run.path('comparison.html')}", markup=False)


def _print(one: Race, config: Config) -> None:
    table = Table(
        title=f"Test NDCG@10 at equal {one.table}; cost to {config.compare.reach:.0%} of full data",
        box=box.SIMPLE,
        show_edge=False,
        padding=0,
    )
    table.add_column("method")
    columns = ["kept", "NDCG", "95%", *(f"-{name}" for name in one.references)]
    for name in [*columns, "rollouts", "seconds"]:  # a row fits into 80 columns
        table.add_column(name, justify="right")
    for place in one.places:
        table.add_row(*comparison_page.cells(place, one.references))
    console.print(table)
