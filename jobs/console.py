"""Progress bars and tables on the terminal."""

from __future__ import annotations

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
