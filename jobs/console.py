"""Terminal output: lines, progress and tables. Messages of libraries are silenced."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from minirec.config.common import cost_of
from minirec.config.reading import load
from minirec.config.run import Config
from minirec.evaluation.headline import headline
from minirec.evaluation.policies import label, ordered
from minirec.store.files import read_json
from minirec.store.run import Run

if TYPE_CHECKING:
    from actors.serving.recommender import Recommendation
    from minirec.evaluation.choosing import Choosing

console = Console(soft_wrap=True, highlight=False)
STATE = ("label", "total", "done", "note", "first", "began")
"""What `Bar.state` has."""
PACE_S = 10.0  # a line gives rate and remaining time of a bar only after this time
SHOWN: dict[str, Any] = {"console": console, "transient": True, "refresh_per_second": 4}
PULSE_S = 60.0  # without a terminal, print a line at least this often


class Bar:
    """A progress bar; without a terminal, a line at each quarter."""

    def __init__(self, progress: Progress | None, label: str, total: int):
        self.label, self.total, self.done, self.note = label, total, 0, ""
        self.first: int | None = None  # at the first update, as an earlier attempt may have left it
        self.began = time.time()
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="", pace="") if progress else None

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units and a short note."""
        before, self.done, self.note = self.done, done, note
        if self.first is None:
            self.first, self.began = done, time.time()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note, pace=self.pace())
        elif self.total and 4 * done // self.total > 4 * before // self.total:
            say(f"  {self}")

    def __str__(self) -> str:
        line = f"{self.label}: {self.done}/{self.total} {self.note}".rstrip()
        long = time.time() - self.began >= PACE_S
        return f"{line}, {self.pace()}" if long and self.pace() else line

    def state(self) -> dict[str, Any]:
        """What `pace_of` needs, for a file."""
        return {name: getattr(self, name) for name in STATE}

    def pace(self) -> str:
        """The rate and the remaining time; empty before they are known."""
        return pace_of(self.state(), time.time())


def seconds_each(bar: dict[str, Any], now: float) -> float | None:
    """Seconds for a unit of a bar since its first update; None before the second."""
    units = bar["done"] - (bar["done"] if bar["first"] is None else bar["first"])
    return max(0.0, now - bar["began"]) / units if units > 0 else None


def pace_of(bar: dict[str, Any], now: float) -> str:
    """The rate and the remaining time of a bar, from `Bar.state`; empty before they are known."""
    each = seconds_each(bar, now)
    if not each:
        return ""
    rate = f"{each:.1f} s each" if each > 1 else f"{1 / each:,.1f} per second"
    return f"{rate}, {clock(each * (bar['total'] - bar['done']))} left"


def clock(seconds: float) -> str:
    """A duration as 0:07, 4:09 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Spoken:
    """State of `pulse`: when the last line was printed, the current bar, the line of the stage."""

    at = 0.0
    bar: Bar | None = None
    line: Progress | None = None


def say(line: str) -> None:
    """Print a line without markup."""
    _Spoken.at = time.monotonic()
    console.print(line, markup=False)


def current_bar() -> Bar | None:
    """The bar that is shown now."""
    return _Spoken.bar


@contextmanager
def pulse(stage: str) -> Iterator[None]:
    """Show that a stage works: in a terminal by a line with its time, until a bar takes its place.

    Without a terminal, print the progress of the stage if nothing was printed for `PULSE_S`.
    """
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, **SHOWN) as progress:
            _Spoken.line = progress
            try:
                progress.add_task(stage, total=None)
                yield
            finally:
                _Spoken.line = None
        return
    started = _Spoken.at = time.monotonic()

    def report() -> None:
        if time.monotonic() >= _Spoken.at + PULSE_S:
            progress = f", {_Spoken.bar}" if _Spoken.bar else ""
            say(f"  {stage} has worked for {time.monotonic() - started:.0f} s{progress}")

    with repeating(report, lambda: max(0.0, _Spoken.at + PULSE_S - time.monotonic())):
        yield


@contextmanager
def repeating(action: Callable[[], None], wait_s: Callable[[], float]) -> Iterator[None]:
    """During the block, call `action` in a thread after each `wait_s()` seconds."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(wait_s()):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def bar(label: str, total: int) -> Iterator[Bar]:
    """A progress bar for `total` units; in a terminal with its rate and the remaining time."""
    with ExitStack() as showing:
        progress = None
        if console.is_terminal:
            if _Spoken.line is not None:
                _Spoken.line.stop()
                showing.callback(_Spoken.line.start)
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[pace]}"),
                TextColumn("{task.fields[note]}"),
            )
            progress = showing.enter_context(Progress(*columns, **SHOWN))
        _Spoken.bar = Bar(progress, label, total)
        try:
            yield _Spoken.bar
        finally:
            _Spoken.bar = None


def quiet(config: Config) -> None:
    """Silence libraries by environment variables; variables that are already set stay."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not config.resources.gpus_per_worker:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns if it must guess
    # Each start of a Ray Data actor prints a warning about arguments in the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray would print each task that it repeats, also those that Ctrl-C ends.
    os.environ.setdefault("RAY_enable_output_error_log_if_still_retry", "0")


@contextmanager
def without_stderr() -> Iterator[None]:
    """Discard file descriptor 2, where C++ libraries print what Python cannot silence."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def print_plan(rows: list[tuple[str, str, str]]) -> None:
    """Print a plan."""
    table = Table("stage", "what", "how much", title="Plan")
    before = ""
    for stage, what, value in rows:
        table.add_row("" if stage == before else stage, what, value)
        before = stage
    console.print(table)


def print_settings(settings: list[tuple[str, Any, str]]) -> None:
    """Print a table of settings: key, default, meaning, and cost where there is one.

    The cost has a column if all settings have one; else it is a line below the meaning.
    """
    costs = [cost_of(key) for key, *_ in settings]
    columns = ("setting", "default", "meaning", *(["cost"] if all(costs) else []))
    table = Table(*(Column(name, overflow="fold") for name in columns))
    if all(costs):
        table.columns[0].min_width = max(len(key) for key, *_ in settings)
    for (key, default, meaning), cost in zip(settings, costs, strict=True):
        below = f"\nCost: {cost}." if cost and not all(costs) else ""
        beside = [Text(cost)] if all(costs) else []
        table.add_row(Text(key), Text(json.dumps(default)), Text(meaning + below), *beside)
    console.print(table)


def print_summary(run: Run) -> None:
    """Print the cost of each stage and, after `evaluate`, the quality."""
    if costs := run.costs():
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
    _print_quality(run)
    if run.done("train") and run.path("config.yaml").exists():
        from minirec.evaluation.choosing import choosing  # loads pyarrow

        _print_choosing(choosing(run, load(run.path("config.yaml"))))
    if run.done("report"):
        console.print(f"report: {run.path('report.html')}")


def _print_quality(run: Run) -> None:
    """The metrics of all policies and the headline, if the run was evaluated."""
    path = run.path("evaluation.json")
    if path.exists() and run.done("evaluate"):
        console.print(_quality(read_json(path)["policies"]))
        if sentence := headline(read_json(path)):
            say(sentence)


def _print_choosing(found: Choosing) -> None:
    """What choosing the samples cost, what the training would have cost in addition without it."""
    table = Table("", title="Choosing the samples")
    for name in ("seconds", "of the run", "rollouts", "tokens*"):
        table.add_column(name, justify="right")
    rows = [("cost", found.cost, f"{found.share:.0%}")]
    if found.prompts:
        rows.append(("avoided (estimate)", found.avoided, ""))
    for name, spent, share in rows:
        tokens = "" if spent.tokens is None else f"{spent.tokens:,}"
        table.add_row(name, f"{spent.seconds:,.1f}", share, f"{spent.rollouts:,}", tokens)
    console.print(table)
    for sentence in found.sentences()[1:]:
        say(sentence)
    if any(spent.tokens is not None for _, spent, _ in rows):
        say("* forward-equivalent: the cost of one forward pass over a token is 1.")


def _quality(policies: dict[str, Any]) -> Table:
    """NDCG@10 of each policy with its interval on test; where items have weights, value@10 too."""
    weighted = any("value@10" in split for splits in policies.values() for split in splits.values())
    last = ("valid\nvalue@10", "test\nvalue@10") if weighted else ("95% interval",)
    between = "\n" if weighted else " "
    names = [f"{split}{between}NDCG@10" for split in ("valid", "test")]
    table = Table("policy", *names, *last, title="Quality")
    for policy in ordered(policies):
        both = [policies[policy][split] for split in ("valid", "test")]
        cells = [f"{one['ndcg@10']['mean']:.4f}" for one in both]
        if weighted:
            cells += [f"{one['value@10']['mean']:.4f}" for one in both]
        else:
            cells.append("{low:.4f} to {high:.4f}".format(**both[1]["ndcg@10"]))
        table.add_row(label(policy), *cells)
    return table


def print_recommendation(found: Recommendation, titles: list[str]) -> None:
    """Print the analysis, if any, and the ranked items with their cosines and perhaps scores."""
    if found.analysis:
        console.print("Analysis:", found.analysis.strip(), markup=False)
    columns = {"cosine": found.cosines} | ({"score": found.scores} if found.scores else {})
    table = Table("#", "item", *columns)
    for place, (title, *values) in enumerate(zip(titles, *columns.values(), strict=True), 1):
        table.add_row(str(place), Text(title), *(f"{value:.4f}" for value in values))
    console.print(table)
