"""How the result of a bench is judged and shown: on a page, and in tables on the terminal.

A sweep shows the Pareto front and recommends a budget, a comparison shows the standings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from jobs.console import console
from jobs.trials.diagnostics import shared_by_budget, utility
from jobs.trials.result import curve, ranked
from minirec.config.reading import changed, dump
from minirec.config.run import Config
from minirec.corpus.table import load_users
from minirec.evaluation import front, trials_page
from minirec.evaluation.outcomes import Outcome, Row, outcomes, reached
from minirec.evaluation.standings import Race, race
from minirec.store.files import atomic, read_json
from minirec.store.run import Run
from minirec.trials.trial import AXES, FULL, Trial


def _outcomes(run: Run, planned: Sequence[Trial], rows: Sequence[Row], split: str) -> list[Outcome]:
    """The settings with a finished seed."""
    trials = {trial.name: trial for trial in planned}
    finished = [row for row in rows if row["status"] == "finished"]
    ndcg = {row["trial"]: ranked(run, trials[row["trial"]], split)[1] for row in finished}
    return outcomes(finished, ndcg)


def _draws(run: Run, config: Config, split: str) -> dict[str, Any]:
    """The arguments of a bootstrap over a split."""
    users = load_users(run.path("corpus"), split)
    return {"users": users, "resamples": config.evaluation.bootstrap, "seed": config.seed}


def _write_page(run: Run, name: str, page: str) -> None:
    with atomic(run.path(name)) as file:
        file.write(page.encode())


# Sweep


def _complete(run: Run, planned: Sequence[Trial], rows: Sequence[Row]) -> list[Outcome]:
    """Settings all of whose seeds have finished.

    Of another setting, the better seeds are left: their mean would flatter it.
    """
    unfinished = {row["setting"] for row in rows if row["status"] != "finished"}
    found = _outcomes(run, planned, rows, "valid")
    return [outcome for outcome in found if outcome.setting not in unfinished]


def with_fronts(
    run: Run, config: Config, planned: Sequence[Trial], rows: Sequence[Row]
) -> list[Row]:
    """The rows with the columns ``front_*``."""
    found = front.fronts(_complete(run, planned, rows))
    return [
        row | {f"front_{unit}": row["setting"] in settings for unit, settings in found.items()}
        for row in rows
    ]


def publish_sweep(run: Run, config: Config, planned: Sequence[Trial], rows: Sequence[Row]) -> None:
    """Write sweep.html and best.yaml, and show the result."""
    complete, draws = _complete(run, planned, rows), _draws(run, config, "valid")
    points = front.points(complete, **draws)
    choice = front.choose(complete, tolerance=config.sweep.tolerance, **draws) if points else None
    users = len(np.unique(draws["users"]))
    page = trials_page.sweep_page(
        run.root.name, rows=rows, points=points, choice=choice, users=users
    )
    _write_page(run, "sweep.html", page)
    numbers = ("rollouts", "seconds", "NDCG@10", "95%")
    _print(
        "Trials",
        ("trial", "state"),
        numbers,
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
    _print(
        "Settings; * is on the Pareto front",
        ("setting", "budget"),
        numbers,
        [
            (
                p.outcome.setting,
                f"{p.outcome.samples:,}",
                *(
                    f"{p.outcome.cost(unit):,.0f}{' *' if unit in p.front else ''}"
                    for unit in front.COSTS
                ),
                f"{p.quality.mean:.4f}",
                f"{p.quality.low:.3f}-{p.quality.high:.3f}",
            )
            for p in sorted(points, key=lambda p: p.outcome.cost("rollouts"))
        ],
    )
    _write_best(run, config, planned, choice.setting)
    console.print(trials_page.sentence(choice), markup=False)
    console.print(f"front: {run.path('sweep.html')}", markup=False)
    console.print(f"train it: minirec run --config {_shown(run.path('best.yaml'))}", markup=False)


def _write_best(run: Run, config: Config, planned: Sequence[Trial], setting: str) -> None:
    chosen = next(trial.config for trial in planned if trial.setting == setting)
    values = {AXES[axis]: getattr(chosen.selection, axis) for axis in AXES}
    best = changed(config, {**values, "run_dir": f"{config.run_dir}-best", "sweep": {}})
    _write_page(run, "best.yaml", dump(best))


def _shown(path: Path) -> Path:
    """The path from here, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# Comparison


def with_reached(
    run: Run, config: Config, planned: Sequence[Trial], rows: Sequence[Row]
) -> list[Row]:
    """The rows with the columns ``reached_*``, which depend on the trainings on full data."""
    best = [row["best_valid_ndcg@10"] for row in rows if row["method"] == FULL]
    best = [value for value in best if value is not None]
    goal = config.compare.reach * float(np.mean(best)) if best else float("inf")
    curves = {t.name: curve(run, t, chosen=row["samples"]) for t, row in _paired(planned, rows)}
    return [row | reached(curves[row["trial"]], goal=goal) for row in rows]


def _paired(planned: Sequence[Trial], rows: Sequence[Row]) -> list[tuple[Trial, Row]]:
    trials = {trial.name: trial for trial in planned}
    return [(trials[row["trial"]], row) for row in rows]


def publish_comparison(
    run: Run, config: Config, planned: Sequence[Trial], rows: Sequence[Row]
) -> None:
    """Write comparison.html and show the result."""
    found, draws = _outcomes(run, planned, rows, "test"), _draws(run, config, "test")
    races = [
        race(found, table=table, references=config.compare.references, **draws)
        for table in dict.fromkeys(trial.table for trial in planned if trial.table)
    ]
    done = [(trial, row) for trial, row in _paired(planned, rows) if row["status"] == "finished"]
    finished = [trial for trial, _ in done]
    page = trials_page.comparison_page(
        run.root.name,
        rows=rows,
        races=races,
        curves={trial.name: curve(run, trial, chosen=row["samples"]) for trial, row in done},
        reach=config.compare.reach,
        samples=int(read_json(run.path("corpus", "corpus.json"))["samples"]["train"]),
        users=len(np.unique(draws["users"])),
        overlap=shared_by_budget(run, finished),
        predicted=utility(run, config, finished),
    )
    _write_page(run, "comparison.html", page)
    for one in races:
        _print_race(one, config.compare.reach)
    console.print(f"comparison: {run.path('comparison.html')}", markup=False)


def _print_race(one: Race, reach: float) -> None:
    _print(
        f"Test NDCG@10 at equal {one.table}; cost to {reach:.0%} of full data",
        ("method",),
        ("kept", "NDCG", "95%", *(f"-{name}" for name in one.references), "rollouts", "seconds"),
        [trials_page.cells(place, one.references) for place in one.places],
    )


def _print(
    title: str, words: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Columns of words, then columns of numbers; fits into 80 columns with short names."""
    table = Table(title=title, box=box.SIMPLE, show_edge=False, padding=0, collapse_padding=True)
    for i, name in enumerate(words):
        table.add_column(name, no_wrap=i == 0, min_width=8 if i else None)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
