"""All stages in order."""

from __future__ import annotations

import fcntl
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.console import console, quiet
from jobs.session import Session
from minirec.artifacts import Run, atomic
from minirec.config import Config
from minirec.errors import ArtifactError
from minirec.settings import dump

STAGES = ("prepare", "proxy", "score", "gradients", "select", "train", "evaluate", "report")


def stages(config: Config, names: tuple[str, ...], *, overwrite: bool = False) -> Run:
    """Run the named stages of a run directory in the given order.

    Stages before them that are not named are compared with the settings: what they were made
    with must not differ from what the run directory then says.

    Raises:
        ArtifactError: another command works in the directory, a stage was made with other
            settings, or an input is missing.
    """
    alone = len(names) == 1
    names = stages_of(config, names)
    redo = names if overwrite and alone else ()
    run = Run(Path(config.run_dir), overwrite=overwrite, redo=redo, say=console.print)
    quiet(config)
    with locked(run), Session(config) as session:
        last = max(STAGES.index(name) for name in names)
        for name in STAGES[: last + 1]:
            run.checking = name not in names
            if run.checking and run.done(name) is None:
                continue
            if name == "gradients" and not config.selection.needs_lora_gradients and run.checking:
                continue  # another selection has read them
            _stage(name)(run, config, session)
            if not run.checking:
                with atomic(run.path("config.yaml")) as file:
                    file.write(dump(config).encode())
    run.checking = False
    return run


def stages_of(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """The stages that a command for `names` runs.

    Gradients come with scoring where the selection uses them, else only by their own name.
    """
    if names == ("gradients",):
        return names
    wanted = "score" in names and config.selection.needs_lora_gradients
    return tuple(name for name in STAGES if (wanted if name == "gradients" else name in names))


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the run directory for this process; the lock goes with it, however it ends."""
    run.root.mkdir(parents=True, exist_ok=True)
    with run.path(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"another minirec command works in {run.root}; wait for it or choose another "
                "run_dir"
            ) from None
        yield


def _stage(name: str) -> Callable[[Run, Config, Session], object]:
    """The function of a stage; imported here, so that a stage loads only what it needs."""
    module = {"proxy": "train"}.get(name, name)
    function = getattr(importlib.import_module(f"jobs.{module}"), name)
    if name == "report":
        return lambda run, config, session: function(run, config)
    return function
