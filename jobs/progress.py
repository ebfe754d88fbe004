"""``progress.json``: what the command that works in a run directory does, for those who watch it.

The driver writes the file at most once in a second. While nothing changes, it writes it again after
`BEAT_S`, so that a reader can tell long work from a dead command.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jobs.console import current_bar
from jobs.training_log import poll_s
from minirec.errors import MiniRecError
from minirec.store.files import remove_leftovers, write_json
from minirec.store.lease import here
from minirec.store.run import Run

FILE = "progress.json"
BEAT_S = 30.0
LONGEST_PROBLEM = 500  # characters of an error that the file keeps


class Reporter:
    """Writes `FILE`. Nothing is written before the first stage begins."""

    def __init__(self, run: Run, command: str, stages: Sequence[str], trials: dict[str, bool]):
        self._path = run.path(FILE)
        self._record: dict[str, Any] = {
            "command": command,
            "stages": list(stages),
            "trials": trials,
            "stage": None,
            "stage_began": None,
            "bar": None,
            "state": "running",
            "problem": None,
            "pid": os.getpid(),
            **here(),
        }
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def stage(self, name: str) -> None:
        """Note that a stage begins."""
        with self._lock:
            self._record |= {"stage": name, "stage_began": time.time(), "bar": None}
        if self._thread is None:
            remove_leftovers(self._path)
            self._write()
            self._thread = threading.Thread(target=self._repeat, daemon=True)
            self._thread.start()

    def end(self, state: str | None, problem: str | None) -> None:
        """Write the final state; None: the command goes on elsewhere, and so does the file."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join(BEAT_S)  # a store that does not answer must not hold up the command
        if state is not None and not self._thread.is_alive():
            self._record |= {"state": state, "problem": problem, "bar": None}
            self._write()

    def _repeat(self) -> None:
        written: dict[str, Any] = {}
        at = 0.0
        while not self._ended.wait(max(1.0, poll_s(self._path))):
            bar = current_bar()
            with self._lock:
                self._record["bar"] = bar.state() if bar else None
                now = dict(self._record)
            if now != written or time.monotonic() - at >= BEAT_S:
                self._write()
                written, at = now, time.monotonic()

    def _write(self) -> None:
        with self._lock:
            record = self._record | {"updated": time.time()}
        with suppress(Exception):  # the run itself reports a full disk or a failing store
            write_json(self._path, record)


@contextmanager
def reporting(
    run: Run,
    command: str,
    stages: Sequence[str],
    *,
    trials: dict[str, bool] | None = None,
    goes_on: bool = False,
) -> Iterator[Callable[[str], None]]:
    """During the block, keep `FILE` up to date; yields a function that names the next stage.

    The directory must be held (`minirec.store.lease.held`).

    Args:
        command: as the user called it, such as ``run`` or ``compare``.
        stages: the stages of the command, in order.
        trials: those of a bench by name, and whether each had ended before.
        goes_on: the block is only the start of the command.
    """
    reporter = Reporter(run, command, stages, trials or {})
    try:
        yield reporter.stage
    except BaseException as error:
        failed = isinstance(error, Exception)
        reporter.end("failed" if failed else "interrupted", _sentence(error) if failed else None)
        raise
    reporter.end(None if goes_on else "finished", None)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, MiniRecError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST_PROBLEM else f"{text[:LONGEST_PROBLEM]}..."
