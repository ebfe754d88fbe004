"""All stages in order."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from jobs.cluster.session import Session
from jobs.console import pulse, quiet, say
from minirec.config.reading import dump
from minirec.config.run import Config
from minirec.corpus.table import count_samples
from minirec.store.files import atomic
from minirec.store.lease import held
from minirec.store.run import Run

STAGES = ("prepare", "proxy", "score", "gradients", "select", "train", "evaluate", "report")
ON_RAY = ("proxy", "score", "gradients", "train", "evaluate")


def stages(
    config: Config,
    names: tuple[str, ...],
    *,
    overwrite: bool = False,
    check: Callable[[int], object] | None = None,
    recorded: Config | None = None,
) -> Run:
    """Run the named stages of a run directory in the given order.

    Stages before them that are not named are compared with the settings: what they were made
    with must not differ from what the run directory then says.

    Args:
        check: called with the number of training samples as soon as it is known, so that what
            cannot work is refused before the long stages.
        recorded: what config.yaml says, if not `config`.

    Raises:
        ArtifactError: another command works in the directory, a stage was made with other
            settings, or an input is missing.
    """
    alone = len(names) == 1
    names = stages_of(config, names)
    redo = names if overwrite and alone else ()
    run = Run(config.run_dir, overwrite=overwrite, redo=redo, say=say)
    quiet(config)
    with holding(run), Session(config) as session:
        if any(run.done(name) is None for name in names if name in ON_RAY):
            session.join_cluster()
        last = max(STAGES.index(name) for name in names)
        for name in STAGES[: last + 1]:
            run.checking = name not in names
            if run.checking and run.done(name) is None:
                continue
            if name == "gradients" and not config.selection.needs_lora_gradients and run.checking:
                continue  # another selection has read them
            with pulse(name):
                _stage(name)(run, config, session)
            if not run.checking:
                with atomic(run.path("config.yaml")) as file:
                    file.write(dump(recorded or config).encode())
            if check is not None and name == "prepare":
                check(count_samples(run.path("corpus"), "train"))
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


def holding(run: Run) -> AbstractContextManager[None]:
    """Hold the run directory for this command, which is interrupted if it loses its lease."""

    main = threading.main_thread().ident
    assert main is not None
    # A command that a shell script puts into the background is born deaf to SIGINT.
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN

    def lost(reason: str) -> None:
        say(f"{reason}; this command stops")
        # A real signal, since nothing less wakes a main thread that waits for another one.
        signal.pthread_kill(main, signal.SIGTERM if deaf else signal.SIGINT)

    return held(run.root, lost=lost)


def _stage(name: str) -> Callable[[Run, Config, Session], object]:
    """The function of a stage; imported here, so that a stage loads only what it needs."""
    module = {"proxy": "train"}.get(name, name)
    function = getattr(importlib.import_module(f"jobs.stages.{module}"), name)
    if name == "report":
        return lambda run, config, session: function(run, config)
    return function
