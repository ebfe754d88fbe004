"""The state of a run, from its directory alone: local or on an object store."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.progress import FILE
from jobs.run import STAGES
from minirec.errors import ArtifactError, MiniRecError
from minirec.store.files import read_json
from minirec.store.lease import is_gone
from minirec.store.run import Run
from minirec.trials.trial import FOLDERS

SILENT_S = 180.0
"""A command that has not written `FILE` for this time seems to be dead."""
LAST = {"report", *FOLDERS}
"""A run is complete if one of these stages has finished."""
ORDER = [*(stage.name for stage in STAGES), *FOLDERS]
FIELDS = {"command", "stages", "trials", "stage", "bar", "state", "pid", "updated", "stage_began"}


@dataclass(frozen=True)
class State:
    """What a run does or has done.

    word: ``running``, ``finished``, ``failed``, ``interrupted``, ``dead`` (it was running and
        gives no sign of life), ``stopped`` (nothing says why) or ``done`` (its last command has
        finished, but not the run).
    stage: the running stage, or where it stopped; of a run that is done, the last stage.
    text: the state in words.
    """

    word: str
    stage: str | None
    text: str

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.word in ("failed", "interrupted", "dead", "stopped")


def is_run(names: Collection[str]) -> bool:
    """Whether these files, by their paths below a folder, are those of a run directory."""
    return not stage_names(names, ".begun.json").isdisjoint(ORDER) or not stage_names(
        names, ".json"
    ).isdisjoint(ORDER)


def stage_names(names: Collection[str], ending: str) -> set[str]:
    """The stages with a record of this ending, ``.json`` (finished) or ``.begun.json``."""
    start = "stages/"
    found = {n[len(start) : -len(ending)] for n in names if n.startswith(start)} & {
        n[len(start) : -len(ending)] for n in names if n.endswith(ending)
    }
    return {name for name in found if "." not in name and "/" not in name}


def records(run: Run) -> set[str]:
    """The paths of the records of stages, below the run directory."""
    folder = run.path("stages")
    return {f"stages/{path.name}" for path in folder.glob("*.json")} if folder.is_dir() else set()


def is_trial(run: Run) -> bool:
    """Whether a run directory is that of a trial: it lies in the sweep or comparison of a run."""
    in_bench = run.root.parent.name in FOLDERS.values() and not (run.root / FILE).exists()
    return in_bench and is_run(records(Run(run.root.parent.parent, say=run.say)))


def progress_of(run: Run) -> dict[str, Any] | None:
    """What the command in a run directory last wrote; None without it, or if it is damaged.

    A trial has none of its own: that of its sweep or comparison counts.
    """
    root = run.root.parent.parent if is_trial(run) else run.root
    with suppress(MiniRecError, OSError):
        found = read_json(root / FILE)
        if _usable(found):
            return found
    return None


def _usable(progress: Any) -> bool:
    """Whether this is what `jobs.progress` writes: the fields that are read, with their types."""
    return (
        isinstance(progress, dict)
        and progress.keys() >= FIELDS
        and all(isinstance(progress[name], int | float) for name in ("updated", "stage_began"))
        and all(isinstance(progress[name], dict | None) for name in ("bar", "trials"))
    )


def state_of(
    names: Collection[str], progress: dict[str, Any] | None, *, now: float, trial: bool = False
) -> State:
    """The state of a run.

    Args:
        names: its records, see `records`.
        progress: see `progress_of`.
        now: the time, seconds since 1970.
        trial: it is a trial, and `progress` is that of its bench.
    """
    done, begun = stage_names(names, ".json"), stage_names(names, ".begun.json")
    open_stages = [name for name in ORDER if name in begun - done]
    finished = [name for name in ORDER if name in done]
    complete = bool(LAST & done) or (trial and "evaluate" in done)
    word = progress["state"] if progress else "stopped"
    stage = progress["stage"] if progress and not trial else next(iter(open_stages), None)
    if word == "running" and not (trial and complete):
        assert progress is not None
        return _alive(progress, stage, now)
    if complete and (not open_stages or word == "finished"):
        return State("finished", finished[-1], "finished")
    if word in ("failed", "interrupted") and not trial:
        assert progress is not None
        why = f": {progress['problem']}" if progress.get("problem") else ""
        return State(word, stage, f"{word} at {stage}{why}")
    if open_stages:
        return State("stopped", open_stages[0], f"stopped at {open_stages[0]}")
    last = finished[-1] if finished else None
    return State("done", last, f"done up to {last}" if last else "empty")


def _alive(progress: dict[str, Any], stage: str | None, now: float) -> State:
    silent = now - progress["updated"]
    gone = is_gone(progress)
    if gone or silent > SILENT_S:
        what = "its process has ended" if gone else f"no sign of life for {silent:,.0f} s"
        where = f"process {progress['pid']} on {progress.get('host')}"
        again = "run the same command again to continue"
        return State("dead", stage, f"seems to be dead at {stage}: {what} ({where}); {again}")
    return State("running", stage, f"running: {stage}")


def opened(path: Path) -> Run:
    """The run of a directory; `ArtifactError` if it is none."""
    run = Run(path, say=lambda line: None)
    if not is_run(records(run)) and progress_of(run) is None:
        what = "has no records of stages" if run.root.exists() else "does not exist"
        raise ArtifactError(
            f"{run.root} is not a run directory: it {what}; give the run_dir of a run (`minirec "
            f"runs FOLDER` lists those below a folder)"
        )
    return run


def costs_of(run: Run) -> list[dict[str, Any]]:
    """The cost of each stage so far, as `Run.costs`; lines that are no costs are left out."""
    with suppress(OSError, KeyError, TypeError, MiniRecError, json.JSONDecodeError):
        return run.costs()
    return []


def seconds_here(progress: dict[str, Any] | None, state: State, now: float | None = None) -> float:
    """Seconds that the running stage has worked; 0 if none runs."""
    if progress is None or state.word != "running" or not progress["stage_began"]:
        return 0.0
    return max(0.0, (time.time() if now is None else now) - progress["stage_began"])
