"""`minirec watch`: a view of a running command, from its run directory alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.console import PULSE_S, clock, console, pace_of, say, seconds_each
from jobs.training_log import LogReader, poll_s, read_log
from jobs.watch.figures import LOGS, Log, TrialState, cost_so_far, sentence_of, trials
from jobs.watch.state import (
    ORDER,
    State,
    costs_of,
    is_trial,
    opened,
    progress_of,
    records,
    seconds_here,
    stage_names,
    state_of,
)
from minirec.errors import ArtifactError
from minirec.evaluation.pages import compact
from minirec.store.remote import explained
from minirec.store.run import Run
from minirec.trials.trial import FOLDERS

SHOWN_TRIALS = 30
NOT_KNOWN = ("prepare", "prior", "model", "select", "report")
"""Short stages, which an estimate leaves out without a word."""


@dataclass(frozen=True)
class View:
    """One look at a run: `lines` say how far it is, `rows` are (stage, state, seconds)."""

    run: Run
    command: str
    state: State
    bar: dict[str, Any] | None
    rows: list[tuple[str, str, float | None]]
    trials: list[TrialState]
    lines: list[str]
    now: float


class Watcher:
    """Looks at a run directory again and again; of a growing log it reads only what is new."""

    def __init__(self, run: Run, *, once: bool = False):
        self.run = run
        self._once = once
        self._readers: dict[Path, LogReader] = {}

    def look(self) -> View:
        """The present view."""
        run, now = self.run, time.time()
        names, progress = records(run), progress_of(run)
        trial = is_trial(run)
        state = state_of(names, progress, now=now, trial=trial)
        ours = None if trial else progress
        stage = state.stage
        seconds = seconds_here(ours, state, now)
        bar = ours["bar"] if ours and state.word == "running" else None
        log, lines = self._log(run.path(LOGS[stage], "log.jsonl")) if stage in LOGS else ([], [])
        if log:
            total = bar["total"] if bar and bar["label"] in LOGS.values() else None
            lines.append(sentence_of(log, total))
        found = self._trials(ours["trials"] if ours else {}, running=state.word == "running")
        if state.word == "running" or not state.bad:
            running = stage if state.word == "running" else None
            cost = cost_so_far(run, running, log if running else [], seconds)
        else:
            cost = cost_so_far(run, stage, log, 0.0)
        lines.append(_cost(cost, found))
        rows = _rows(run, names, ours, state, seconds)
        if state.word == "running":
            to_come = [name for name, word, _ in rows if word == "to come"]
            lines.append(_rest(bar, found, ours, to_come, seconds, now))
        command = ours["command"] if ours else ("a trial" if trial else "")
        return View(run, command, state, bar, rows, found, lines, now)

    def _log(self, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
        """The entries of a log, and a line if it is damaged."""
        try:
            if self._once:
                return [*read_log(path)], []
            return [*self._readers.setdefault(path, LogReader(path)).read()], []
        except ArtifactError as error:
            return [], [str(error)]

    def _trials(self, planned: dict[str, bool], *, running: bool) -> list[TrialState]:
        logs: dict[Path, Log] = {}
        for folder in (self.run.path(name) for name in FOLDERS.values()):
            for path in folder.glob("*/policy/log.jsonl") if folder.is_dir() else ():
                logs[path] = self._log(path)[0]
        return trials(self.run, list(planned), running=running, logs=logs)


def _rows(
    run: Run,
    names: set[str],
    progress: dict[str, Any] | None,
    state: State,
    seconds: float,
) -> list[tuple[str, str, float | None]]:
    done, begun = stage_names(names, ".json"), stage_names(names, ".begun.json")
    known = done | begun | {*(progress["stages"] if progress else ())}
    spent = {cost["stage"]: cost["seconds"] for cost in costs_of(run)}
    rows: list[tuple[str, str, float | None]] = []
    for name in [*ORDER, *sorted(known - {*ORDER})]:
        if name not in known:
            continue
        if name == state.stage and state.word not in ("finished", "done"):
            word, took = state.word, spent.get(name, 0.0) + seconds
        elif name in done:
            word, took = "done", spent.get(name)
        else:
            word, took = ("unfinished", spent.get(name)) if name in begun else ("to come", None)
        rows.append((name, word, took))
    return rows


def _cost(cost: tuple[int, int, float], found: Sequence[TrialState]) -> str:
    rollouts, tokens, seconds = cost
    rollouts += sum(trial.rollouts for trial in found)
    return (
        f"cost so far: {rollouts:,} rollouts, {compact(tokens)} forward-equivalent tokens"
        f"{' (without trials)' if found else ''}, {seconds:,.0f} s"
    )


def _rest(
    bar: dict[str, Any] | None,
    found: Sequence[TrialState],
    progress: dict[str, Any] | None,
    to_come: Sequence[str],
    seconds: float,
    now: float,
) -> str:
    """The estimate of the time to the end, and what it leaves out."""
    before = sum(progress["trials"].values()) if progress else 0
    ended = sum(trial.word in ("finished", "stopped") for trial in found)
    if found and progress and progress["trials"]:
        if ended == before:
            return "time to the end: not known before a trial has ended"
        left = seconds / (ended - before) * (len(found) - ended)
        return f"time to the end: about {clock(left)}"
    each = seconds_each(bar, now) if bar else None
    after = [name for name in to_come if name not in NOT_KNOWN]
    later = f"; then {', '.join(after)}, which cannot be estimated yet" if after else ""
    if bar is None or each is None:
        return f"time to the end: not known yet{later}"
    left = each * (bar["total"] - bar["done"])
    what = "time to the end" if not after else f"{bar['label']} ends in"
    return f"{what}: about {clock(left)}{later}"


def watch(path: str, *, once: bool = False, wait: Callable[[float], object] = time.sleep) -> int:
    """Show the run until its command ends; returns the exit status, 1 if it failed or seems dead.

    Args:
        path: a run directory, local or on an object store.
        once: show one view.
        wait: called between two looks with the seconds to wait.
    """
    from minirec.store.remote import located

    with explained(located(path)):
        watcher = Watcher(opened(located(path)), once=once)
        view = watcher.look()
        every = max(1.0, poll_s(view.run.root))
        if once or view.state.word != "running":
            console.print(page(view))
        elif console.is_terminal:
            with Live(page(view), console=console, auto_refresh=False) as live:
                while view.state.word == "running":
                    wait(every)
                    view = watcher.look()
                    live.update(page(view), refresh=True)
        else:
            view = _quiet(watcher, view, lambda: wait(every))
        if not once or view.state.bad:
            say(f"{view.run.root}: {view.state.text}")
    return 1 if view.state.bad else 0


def _quiet(watcher: Watcher, view: View, wait: Callable[[], object]) -> View:
    """Print a line for each stage, each quarter of a bar, each trial, and after `PULSE_S`."""
    said, at = None, 0.0
    while view.state.word == "running":
        bar = view.bar
        quarter = bar and bar["total"] and (bar["label"], 4 * bar["done"] // bar["total"])
        ended = sum(trial.word in ("finished", "stopped") for trial in view.trials)
        key = (view.state.stage, quarter, ended)
        if key != said or time.monotonic() - at >= PULSE_S:
            say(line(view))
            said, at = key, time.monotonic()
        wait()
        view = watcher.look()
    return view


def line(view: View) -> str:
    """The view in one line."""
    counted = f" ({_counts(view.trials)})" if view.trials else ""
    shown = _of(view.bar) if view.bar else ""
    return f"{view.state.stage}{counted}{shown}: " + "; ".join(view.lines)


def _of(bar: dict[str, Any]) -> str:
    return f" {bar['done']}/{bar['total']} {bar['note']}".rstrip()


def _counts(found: Sequence[TrialState]) -> str:
    words = ("finished", "stopped", "running", "begun", "to come")
    counts = {word: sum(trial.word == word for trial in found) for word in words}
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number)


def page(view: View) -> Group:
    """The view as a table of stages, a table of trials, and lines."""
    colours = {"done": "green", "running": "cyan", "to come": "dim"}
    table = Table("stage", "state", "time", "", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for name, word, seconds in view.rows:
        took = "" if seconds is None else clock(seconds)
        bar: Any = ""
        if name == view.state.stage and view.bar:
            bar = _bar(view.bar, view.now)
        table.add_row(name, Text(word, style=colours.get(word, "red")), took, bar)
    command = f"minirec {view.command}, " if view.command and view.command != "a trial" else ""
    head = Text(f"{view.run.root}: {command}{view.state.text}", style="bold")
    parts: list[Any] = [head, table]
    if view.trials:
        parts += [Text(f"trials: {_counts(view.trials)}"), _trial_table(view.trials)]
    return Group(*parts, *(Text(text) for text in view.lines))


def _bar(bar: dict[str, Any], now: float) -> Table:
    grid = Table.grid(padding=(0, 1))
    pace = pace_of(bar, now)
    text = f"{bar['done']}/{bar['total']} {pace}" if pace else f"{bar['done']}/{bar['total']}"
    total = max(1, bar["total"])
    grid.add_row(bar["label"], ProgressBar(total=total, completed=bar["done"], width=20), text)
    return grid


def _trial_table(found: Sequence[TrialState]) -> Table:
    """The trials that have begun, those that run first, then the best."""
    begun = [trial for trial in found if trial.word != "to come"]
    begun.sort(key=lambda t: (t.word not in ("running", "begun"), -(t.ndcg or 0.0), t.name))
    table = Table("trial", "state", "steps", "valid NDCG@10", "rollouts", "seconds", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for t in begun[:SHOWN_TRIALS]:
        ndcg = "" if t.ndcg is None else f"{t.ndcg:.4f}"
        cells = (f"{t.steps:,}", ndcg, f"{t.rollouts:,}", f"{t.seconds:,.0f}")
        table.add_row(Text(t.name), t.word, *cells)
    if len(begun) > SHOWN_TRIALS:
        table.add_row(f"and {len(begun) - SHOWN_TRIALS} more", "", "", "", "", "")
    return table
