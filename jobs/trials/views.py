"""Judge the result of a bench; show it on a page and in tables on the terminal.

A sweep shows the Pareto front and recommends a budget. A comparison shows the standings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from jobs.console import console
from jobs.trials.diagnostics import reference_levels, shared_by_budget, utility
from jobs.trials.result import Result
from minirec.config.reading import changed, dump
from minirec.evaluation import ledger_page, trials_page
from minirec.evaluation.front import COSTS, choose, fronts
from minirec.evaluation.ledger import Ledger, goal, ledger
from minirec.evaluation.outcomes import Outcome, Row, reached
from minirec.evaluation.paired import Bootstrap, standing
from minirec.evaluation.standings import race
from minirec.store.files import atomic, read_json
from minirec.store.run import Run
from minirec.trials.trial import AXES, FULL
from minirec.trials.variants import EQUAL_STEPS, EQUAL_TOKENS, is_chosen, is_whole


def _complete(result: Result) -> list[Outcome]:
    """The settings whose seeds have all finished. ASHA stops bad seeds, which biases the others."""
    unfinished = {row["setting"] for row in result.rows if row["status"] != "finished"}
    return [o for o in result.outcomes("valid") if o.setting not in unfinished]


def with_fronts(result: Result) -> list[Row]:
    """The rows of a sweep, with the columns ``front_*`` filled in."""
    found = fronts(_complete(result))
    return [
        row | {f"front_{unit}": row["setting"] in settings for unit, settings in found.items()}
        for row in result.rows
    ]


def publish_sweep(result: Result) -> None:
    """Write sweep.html and best.yaml, and print the result."""
    run, bootstrap = result.run, result.bootstrap("valid")
    outcomes, tolerance = _complete(result), result.config.sweep.tolerance
    choice = choose(outcomes, bootstrap, tolerance=tolerance) if outcomes else None
    by_cost = sorted(outcomes, key=lambda o: o.cost("rollouts"))
    points = [(outcome, standing(outcome.ndcg, bootstrap)) for outcome in by_cost]
    users = len(np.unique(bootstrap.users))
    page = trials_page.sweep_page(
        run.root.name, rows=result.rows, points=points, choice=choice, users=users
    )
    _write(run, "sweep.html", page)
    numbers = (*COSTS, "NDCG@10", "95%")
    trials = [
        (
            row["trial"],
            row["cause"] or row["status"],
            f"{row['rollouts']:,}",
            f"{row['seconds']:,.0f}",
            "" if row["valid_ndcg@10"] is None else f"{row['valid_ndcg@10']:.4f}",
            "" if row["low"] is None else f"{row['low']:.3f}-{row['high']:.3f}",
        )
        for row in result.rows
    ]
    _print("Trials", ("trial", "state"), numbers, trials)
    if choice is None:
        console.print("sweep: no setting has finished all its seeds, so there is no front")
        return
    front = fronts(outcomes)
    settings = [
        (
            o.setting,
            f"{o.samples:,}",
            *(f"{o.cost(unit):,.0f}{' *' if o.setting in front[unit] else ''}" for unit in COSTS),
            f"{quality.mean:.4f}",
            f"{quality.low:.3f}-{quality.high:.3f}",
        )
        for o, quality in points
    ]
    _print("Settings; * is on the Pareto front", ("setting", "budget"), numbers, settings)
    _write_best(result, choice.setting)
    console.print(trials_page.sentence(choice), markup=False)
    console.print(f"front: {run.path('sweep.html')}", markup=False)
    best, here = run.path("best.yaml"), Path.cwd()
    shown = best.relative_to(here) if best.is_relative_to(here) else best
    console.print(f"train it: minirec run --config {shown}", markup=False)


def _write_best(result: Result, setting: str) -> None:
    chosen = next(trial.config for trial in result.planned if trial.setting == setting)
    values = {AXES[axis]: getattr(chosen.selection, axis) for axis in AXES}
    folder = f"{result.config.run_dir}-best"
    best = changed(result.config, {**values, "run_dir": folder, "sweep": {}})
    _write(result.run, "best.yaml", dump(best))


def with_reached(result: Result) -> list[Row]:
    """The rows of a comparison, with the columns ``reached_*`` filled in.

    The goal depends on the trainings on full data, which can differ between commands.
    """
    whole = {
        t.name for t in result.planned if (is_whole(t.config) if t.variant else t.method == FULL)
    }
    best = goal(result.rows, whole=lambda row: row["trial"] in whole)
    wanted = float("inf") if best is None else result.config.compare.reach * best
    curves = result.curves()
    return [row | reached(curves[row["trial"]], goal=wanted) for row in result.rows]


def ledgers(result: Result, outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> list[Ledger]:
    """The tables of the variants, that at equal cost first."""
    variants = [trial for trial in result.planned if trial.variant]
    tables = sorted({trial.table for trial in variants}, key=(EQUAL_TOKENS, EQUAL_STEPS).index)
    chosen = {str(trial.variant): is_chosen(trial.config) for trial in variants}
    return [
        ledger(
            outcomes,
            bootstrap,
            table=table,
            references=result.config.compare.references,
            chosen=chosen,
            untrained={
                row["variant"]: row["cause"]
                for row in result.rows
                if row["table"] == table and row["status"] == "untrained"
            },
        )
        for table in tables
    ]


def publish_comparison(result: Result) -> None:
    """Write comparison.html and print the result."""
    run, config, bootstrap = result.run, result.config, result.bootstrap("test")
    outcomes, finished = result.outcomes("test"), result.finished()
    methods = [outcome for outcome in outcomes if outcome.variant is None]
    races = [
        race(methods, bootstrap, table=table, references=config.compare.references)
        for table in dict.fromkeys(t.table for t in result.planned if t.table and not t.variant)
    ]
    accounts = ledgers(result, outcomes, bootstrap)
    page = trials_page.comparison_page(
        run.root.name,
        rows=result.rows,
        races=races,
        curves=result.curves(),
        ledgers=accounts,
        levels=reference_levels(run, finished) if accounts else {},
        reach=config.compare.reach,
        samples=int(read_json(run.path("corpus", "corpus.json"))["samples"]["train"]),
        users=len(np.unique(bootstrap.users)),
        overlap=shared_by_budget(run, finished),
        predicted=utility(run, config, finished),
    )
    _write(run, "comparison.html", page)
    for account in accounts:
        _print_ledger(account, config.compare.reach)
    for one in races:
        _print(
            f"Test NDCG@10 at equal {one.table}; cost to {config.compare.reach:.0%} of full data",
            ("method",),
            ("kept", "NDCG", "95%", *(f"-{name}" for name in one.references), *COSTS),
            [trials_page.cells(place, one.references) for place in one.places],
        )
    console.print(f"comparison: {run.path('comparison.html')}", markup=False)


def _print_ledger(account: Ledger, reach: float) -> None:
    """Print the table of the variants, and what follows from it."""
    letters = ledger_page.letters(account)
    rows = [ledger_page.cells(entry, account.references) for entry in account.entries]
    _print(
        f"Test NDCG@10 at equal {account.equal}",
        ("variant",),
        ("NDCG", "95%", *(f"-{x}" for x in letters.values()), "tokens", "s", "rolls", "reach"),
        # Without the 0 of 0.123, so that a row fits into 80 characters.
        [[name, *(re.sub(r"\b0\.", ".", cell) for cell in row)] for name, *row in rows],
    )
    for name, letter in letters.items():
        console.print(f"{letter} is {name}", markup=False)
    console.print(
        f"tokens: forward-equivalent, in all; reach: until {reach:.0%} of the best on all data"
    )
    for name, cause in account.untrained.items():
        console.print(f"{name}: not trained, {cause}", markup=False)
    for answer in account.answers:
        console.print(answer.sentence, markup=False)


def _write(run: Run, name: str, text: str) -> None:
    with atomic(run.path(name)) as file:
        file.write(text.encode())


def _print(
    title: str, words: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table of text columns, then number columns; it fits into 80 characters."""
    table = Table(title=title, box=box.SIMPLE, show_edge=False, padding=0)
    for i, name in enumerate(words):
        table.add_column(name, no_wrap=i == 0, min_width=8 if i else None)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
