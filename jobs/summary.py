"""Tables that the command prints."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from jobs.console import console
from minirec.artifacts import Run, read_json


def print_plan(rows: list[tuple[str, str, str]]) -> None:
    """Table of a plan."""
    table = Table("stage", "what", "how much", title="Plan")
    before = ""
    for stage, what, value in rows:
        table.add_row("" if stage == before else stage, what, value)
        before = stage
    console.print(table)


def print_settings(settings: list[tuple[str, Any, str]]) -> None:
    """A setting in each row: key, default, meaning."""
    table = Table(*(Column(name, overflow="fold") for name in ("setting", "default", "meaning")))
    for key, default, meaning in settings:
        table.add_row(Text(key), Text(json.dumps(default)), Text(meaning))
    console.print(table)


def print_summary(run: Run) -> None:
    """Cost by stage and, once evaluated, quality."""
    costs = run.costs()
    if costs:
        table = Table("stage", title="Cost by stage")
        for name in ("seconds", "rollouts", "tokens", "steps", "driver peak MiB"):
            table.add_column(name, justify="right")
        for c in costs:
            figures = (c["rollouts"], c["generated_tokens"], c["optimizer_steps"])
            table.add_row(
                c["stage"],
                f"{c['seconds']:.1f}",
                *(f"{figure:,}" if figure else "" for figure in figures),
                f"{c['peak_memory_mib']:.0f}",
            )
        console.print(table)
    path = run.path("evaluation.json")
    if path.exists() and run.done("evaluate"):
        table = Table("policy", "valid NDCG@10", "test NDCG@10", "95% interval", title="Quality")
        for policy, splits in read_json(path)["policies"].items():
            valid, test = splits["valid"]["ndcg@10"], splits["test"]["ndcg@10"]
            interval = f"{test['low']:.4f} to {test['high']:.4f}"
            table.add_row(policy, f"{valid['mean']:.4f}", f"{test['mean']:.4f}", interval)
        console.print(table)
    if run.done("report"):
        console.print(f"report: {run.path('report.html')}")


def print_recommendation(analysis: str, items: list[tuple[str, float]]) -> None:
    """Analysis and ranked items."""
    console.print("Analysis:", analysis.strip(), markup=False)
    table = Table("#", "item", "cosine")
    for place, (title, cosine) in enumerate(items, 1):
        table.add_row(str(place), Text(title), f"{cosine:.4f}")
    console.print(table)
