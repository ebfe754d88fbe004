"""What a sweep found: sweep.parquet, sweep.html, best.yaml and the tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.markup import escape
from rich.table import Column, Table

from jobs.console import console
from jobs.run import SHARED, STAGES
from jobs.stage import SELECTION
from jobs.training_log import read_log, spent
from minirec.config.reading import changed, dump
from minirec.config.run import Config
from minirec.corpus import schema
from minirec.corpus.table import load_users
from minirec.evaluation import front, sweep_page
from minirec.evaluation.ranking import bootstrap_means, interval, per_sample
from minirec.store.files import atomic
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table
from minirec.trials.sweep import AXES, Trial

if TYPE_CHECKING:
    from ray.tune import ResultGrid

Row = dict[str, Any]


def rows_of(results: ResultGrid, planned: list[Trial], base: Run, *, samples: int) -> list[Row]:
    """A row of `schema.SWEEP` for each trial in planned order, without intervals and fronts."""
    # A trial that failed at once has no config here, but Tune's folder has its name.
    by_name = {Path(result.path).name: result for result in results}
    return [
        _row(trial, by_name[trial.name], base, budget=trial.config.selection.count(samples))
        for trial in planned
    ]


def _row(trial: Trial, result: Any, base: Run, *, budget: int) -> Row:
    run = Run(trial.config.run_dir, base=base, shared=SHARED)
    metrics = result.metrics or {}
    status = "finished" if metrics.get("finished") else "stopped"
    status = "failed" if result.error else status
    own = metrics if status == "stopped" else _spent(run, read_log(run.path("policy", "log.jsonl")))
    shared = shared_cost(base, trial.config)
    selection = trial.config.selection
    return {
        "trial": trial.name,
        "setting": trial.setting,
        "budget": budget,
        "alpha": selection.alpha,
        "groups": selection.groups,
        "learnability": selection.learnability,
        "seed": trial.config.seed,
        "status": status,
        "cause": failure(result.error) if result.error else None,
        "steps": own["steps"],
        "own_rollouts": own["rollouts"],
        "own_seconds": own["seconds"],
        "rollouts": shared["rollouts"] + own["rollouts"],
        "seconds": shared["seconds"] + own["seconds"],
        "valid_ndcg@10": metrics.get("valid_ndcg@10"),
    }


def _spent(run: Run, log: list[Row]) -> Row:
    """What selection and training have spent; the last attempt of a failed one shows in its log.

    Evaluation is left out, which `minirec run` would do once in any case.
    """
    stages = [cost for cost in run.costs() if cost["stage"] in ("select", "train")]
    seconds = sum(cost["seconds"] for cost in stages)
    return {
        "steps": len(log),
        "rollouts": spent(log, "rollouts"),
        "seconds": max(seconds, sum(entry["seconds"] for entry in log)),
    }


def shared_cost(base: Run, config: Config) -> dict[str, Any]:
    """Rollouts and seconds of the proxy, of scoring, and of gradients where they are read.

    Each trial is charged with all of it, as if it stood alone.
    """
    charged = [stage for stage in STAGES if stage.shared and stage.charged == SELECTION]
    read = [stage.name for stage in charged if stage.needed(config)]
    costs = [cost for cost in base.costs() if cost["stage"] in read]
    return {name: sum(cost[name] for cost in costs) for name in ("rollouts", "seconds")}


def failure(error: BaseException) -> str:
    """The last line of what a trial raised, without the class of our own errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("minirec.errors.").partition("Error: ")[2] or last


def read_rows(run: Run) -> list[Row]:
    """The rows of sweep.parquet."""
    return read_table(run.path("sweep.parquet")).to_pylist()


def write_rows(run: Run, config: Config, planned: list[Trial], rows: list[Row]) -> None:
    """Write sweep.parquet, with the intervals and the fronts, which `rows` get too."""
    outcomes, draws = _outcomes(run, planned, rows), _draws(run, config)
    _complete(rows, front.points(outcomes, **draws), run, planned, draws)
    write_table(run.path("sweep.parquet"), pa.Table.from_pylist(rows, schema=schema.SWEEP))


def publish(
    run: Run, config: Config, planned: list[Trial], rows: list[Row], *, again: bool = False
) -> None:
    """Write sweep.html and best.yaml, and show the result.

    Args:
        run: the directory of the sweep.
        config: of the sweep.
        planned: all trials.
        rows: theirs, as in sweep.parquet.
        again: nothing ran this time; say so.
    """
    outcomes, draws = _outcomes(run, planned, rows), _draws(run, config)
    points = front.points(outcomes, **draws)
    choice = front.choose(outcomes, tolerance=config.sweep.tolerance, **draws) if points else None
    users = len(np.unique(draws["users"]))
    page = sweep_page.render(run.root.name, rows=rows, points=points, choice=choice, users=users)
    with atomic(run.path("sweep.html")) as file:
        file.write(page.encode())
    if choice:
        _write_best(run, config, planned, choice.setting)
    if again:
        console.print("sweep: every trial has finished or was stopped before; nothing to do")
    _print(run, rows, points, choice)


def _draws(run: Run, config: Config) -> dict[str, Any]:
    """The arguments of a bootstrap over the validation split."""
    users = load_users(run.path("corpus"), "valid")
    return {"users": users, "resamples": config.evaluation.bootstrap, "seed": config.seed}


def _ndcg(run: Run, trial: Trial) -> np.ndarray:
    """(N,) NDCG@10 of the final adapter on the validation split, in the order of its file."""
    own = Run(trial.config.run_dir, base=run, shared=SHARED)
    ranks = read_table(own.path("ranks.parquet")).to_pandas()
    mine = ranks[(ranks["policy"] == "trained") & (ranks["split"] == "valid")]
    return per_sample(mine["rank"].to_numpy())["ndcg@10"]


def _outcomes(run: Run, planned: list[Trial], rows: list[Row]) -> list[front.Outcome]:
    """Settings all of whose seeds have finished.

    The seeds that are left of another were the better ones: their mean would flatter it.
    """
    found = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        if any(row["status"] != "finished" for row in mine):
            continue
        names = {row["trial"] for row in mine}
        found.append(
            front.Outcome(
                setting=setting,
                budget=mine[0]["budget"],
                ndcg=np.stack([_ndcg(run, t) for t in planned if t.name in names]),
                rollouts=np.array([row["rollouts"] for row in mine], dtype=np.float64),
                seconds=np.array([row["seconds"] for row in mine], dtype=np.float64),
            )
        )
    return found


def _complete(
    rows: list[Row],
    points: list[front.Point],
    run: Run,
    planned: list[Trial],
    draws: dict[str, Any],
) -> None:
    """Fill in the interval of each finished trial and the fronts of its setting."""
    by_setting = {point.setting: point for point in points}
    trials = {trial.name: trial for trial in planned}
    for row in rows:
        low = high = None
        if row["status"] == "finished":
            values = _ndcg(run, trials[row["trial"]])
            low, high = interval(bootstrap_means(values[:, None], **draws)[:, 0])
        point = by_setting.get(row["setting"])
        row |= {"low": low, "high": high}
        row["front_rollouts"] = bool(point and point.front_rollouts)
        row["front_seconds"] = bool(point and point.front_seconds)


def _write_best(run: Run, config: Config, planned: list[Trial], setting: str) -> None:
    chosen = next(trial.config for trial in planned if trial.setting == setting)
    values = {AXES[axis]: getattr(chosen.selection, axis) for axis in AXES}
    best = changed(config, {**values, "run_dir": f"{config.run_dir}-best", "sweep": {}})
    with atomic(run.path("best.yaml")) as file:
        file.write(dump(best).encode())


def _print(
    run: Run, rows: list[Row], points: list[front.Point], choice: front.Choice | None
) -> None:
    _table(
        "Trials",
        ("trial", "state"),
        [
            (
                row["trial"],
                row["cause"] or row["status"],
                f"{row['rollouts']:,}",
                f"{row['seconds']:,.0f}",
                "" if row["valid_ndcg@10"] is None else f"{row['valid_ndcg@10']:.4f}",
                "" if row["low"] is None else f"{row['low']:.3f}-{row['high']:.3f}",
            )
            for row in rows
        ],
    )
    if choice is None:
        console.print("sweep: no setting has finished with all its seeds, so there is no front")
        return
    _table(
        "Settings; * is on the Pareto front",
        ("setting", "budget"),
        [
            (
                p.setting,
                f"{p.budget:,}",
                f"{p.rollouts:,.0f}{' *' if p.front_rollouts else ''}",
                f"{p.seconds:,.0f}{' *' if p.front_seconds else ''}",
                f"{p.quality:.4f}",
                f"{p.low:.3f}-{p.high:.3f}",
            )
            for p in sorted(points, key=lambda p: p.rollouts)
        ],
    )
    console.print(sweep_page.sentence(choice), markup=False)
    console.print(f"front: {run.path('sweep.html')}", markup=False)
    console.print(f"train it: minirec run --config {_shown(run.path('best.yaml'))}", markup=False)


def _table(title: str, first: tuple[str, str], rows: list[tuple[str, ...]]) -> None:
    """Two columns of words, then cost and quality; fits into 80 columns with short names."""
    words = (Column(first[0], no_wrap=True), Column(first[1], min_width=8))
    table = Table(*words, title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for name in ("rollouts", "seconds", "NDCG@10", "95%"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _shown(path: Path) -> Path:
    """The path from here, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
