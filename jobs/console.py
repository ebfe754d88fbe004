"""What the terminal shows: progress, and not the chatter of libraries."""

from __future__ import annotations

import os
import sys
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


class Bar:
    """A progress bar; where the output is no terminal, a line at each quarter."""

    def __init__(self, progress: Progress | None, label: str, total: int):
        self.label, self.total, self.done = label, total, 0
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="") if progress else None

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units, with a short note."""
        before, self.done = self.done, done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif self.total and 4 * done // self.total > 4 * before // self.total:
            console.print(f"  {self.label}: {done}/{self.total} {note}")


@contextmanager
def bar(label: str, total: int) -> Iterator[Bar]:
    """A progress bar for `total` units."""
    if not console.is_terminal:
        yield Bar(None, label, total)
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
    if not os.environ.get("RAY_ADDRESS"):
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
