"""The log of a training: read it, sum it, show its progress."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.console import bar, repeating
from minirec.errors import ArtifactError
from minirec.store.remote import is_remote


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a training log, one per step; `ArtifactError` if it is damaged.

    A last line without its line break is left out if it is torn: the training is still writing it,
    or was killed, and its next attempt writes the file whole.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    entries = _entries(lines, path)
    with suppress(ValueError):
        entries += [json.loads(last)] if last else []
    return entries


def _entries(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise ArtifactError(
            f"{path} is damaged; delete the folder {path.parent} and run the same command again"
        ) from None


class LogReader:
    """Reads a growing log: each `read` takes only what was added since the one before.

    A new attempt of the training replaces the file, which is then read from its start. A log on an
    object store is read whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None  # device and inode
        self._end = 0  # bytes read so far
        self._entries: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """The entries so far; `ArtifactError` if the log is damaged."""
        if is_remote(self._path):
            return read_log(self._path)
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self._file or status.st_size < self._end:
                self._file, self._end, self._entries = (status.st_dev, status.st_ino), 0, []
            file.seek(self._end)
            whole, line_break, _ = file.read().rpartition(b"\n")
            if line_break:
                self._entries = self._entries + _entries(whole.split(b"\n"), self._path)
                self._end += len(whole) + 1
        return self._entries


def last_step(log: list[dict[str, Any]]) -> tuple[int, str]:
    """The number of steps, and a note for the bar: the last reward, or the loss if it has none, and
    how many prompts of the last choice live selection knew to be learnable.
    """
    if not log:
        return 0, ""
    name = "reward" if "reward" in log[-1] else "loss"
    note = f"{name} {log[-1][name]:.3f}"
    choice = next((entry for entry in reversed(log) if "chosen_in_band" in entry), None)
    if choice is not None:
        counts = [value for key, value in choice.items() if key.startswith("chosen_")]
        chosen = sum(value for value in counts if isinstance(value, int))  # not chosen_log_ratio
        learnable = choice["chosen_in_band"] + choice["chosen_value"]
        note += f", {learnable} of {chosen} prompts known to be learnable"
    return log[-1]["step"] + 1, note


def poll_s(at: Path) -> float:
    """Seconds between two reads; longer for an object store, whose requests cost money."""
    return 10.0 if is_remote(at) else 0.5


@contextmanager
def follow(
    name: str, total: int, state: Callable[[], tuple[int, str]], *, at: Path
) -> Iterator[None]:
    """Show a bar during the block; `state` reads the finished steps and a note from `at`."""

    def show() -> None:
        # The next step replaces a damaged log. The training itself reports a failing store.
        with suppress(Exception):
            done, text = state()
            if done:
                progress.update(done, text)

    with bar(name, total) as progress:
        with repeating(show, lambda: poll_s(at)):
            yield
        show()  # the last steps


def spent(log: list[dict[str, Any]], what: str) -> int:
    """Sum of rollouts or tokens in a training log, including validation."""
    return sum(entry[what] + validating(entry, what) for entry in log)


def validating(entry: dict[str, Any], what: str) -> Any:
    """Rollouts, tokens or seconds of the validations in a step, that of the start included."""
    return sum(entry.get(f"{first}validation_{what}", 0) for first in ("", "start_"))
