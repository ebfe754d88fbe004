"""What the terminal shows: progress, and not the chatter of libraries."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from minirec.config import Config

console = Console(soft_wrap=True, highlight=False)


PULSE_S = 60.0  # without a terminal, no longer silence than this


class Bar:
    """A progress bar; where the output is no terminal, a line at each quarter."""

    def __init__(self, progress: Progress | None, label: str, total: int):
        self.label, self.total, self.done, self.note = label, total, 0, ""
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="") if progress else None

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units, with a short note."""
        before, self.done, self.note = self.done, done, note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif self.total and 4 * done // self.total > 4 * before // self.total:
            say(f"  {self}")

    def __str__(self) -> str:
        return f"{self.label}: {self.done}/{self.total} {self.note}".rstrip()


class _Spoken:
    """When the last line was printed, and the bar at work, for `pulse`."""

    at = 0.0
    bar: Bar | None = None


def say(line: str) -> None:
    """Print a line as it is."""
    _Spoken.at = time.monotonic()
    console.print(line, markup=False)


@contextmanager
def pulse(stage: str) -> Iterator[None]:
    """Without a terminal, break each silence of `PULSE_S` with a line on how far the stage is."""
    if console.is_terminal:
        yield
        return
    ended = threading.Event()
    started = _Spoken.at = time.monotonic()

    def watch() -> None:
        while not ended.wait(max(0.0, _Spoken.at + PULSE_S - time.monotonic())):
            if time.monotonic() >= _Spoken.at + PULSE_S:
                at_work = f", {_Spoken.bar}" if _Spoken.bar else ""
                say(f"  {stage} has worked for {time.monotonic() - started:.0f} s{at_work}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def bar(label: str, total: int) -> Iterator[Bar]:
    """A progress bar for `total` units."""
    if not console.is_terminal:
        _Spoken.bar = Bar(None, label, total)
        try:
            yield _Spoken.bar
        finally:
            _Spoken.bar = None
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, label, total)


def quiet(config: Config) -> None:
    """Keep libraries from printing what says nothing about the run; what is set stays."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not config.resources.gpus_per_worker:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # no warning that none was detected
    # Ray Data's actors warn at each start that their arguments live in the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def without_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: C++ libraries greet there, whatever Python is told."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
