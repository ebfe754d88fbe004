"""All stages in order."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from jobs.console import console
from jobs.session import Session
from minirec.artifacts import Run, atomic
from minirec.config import Config, dump

STAGES = ("prepare", "proxy", "score", "select", "train", "evaluate", "report")


def stages(config: Config, names: tuple[str, ...], *, overwrite: bool = False) -> Run:
    """Run the named stages of a run directory in the given order."""
    run = Run(Path(config.run_dir), overwrite=overwrite, say=console.print)
    _quiet(config)
    with Session(config) as session:
        for name in names:
            _stage(name)(run, config, session)
            # Only now: settings that the stage refused must not stand beside its old output.
            with atomic(run.path("config.yaml")) as file:
                file.write(dump(config).encode())
    return run


def _quiet(config: Config) -> None:
    """Keep libraries from printing what says nothing about the run; what is set stays."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not config.training.gpus_per_worker:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # no warning that none was detected
    if not os.environ.get("RAY_ADDRESS"):
        # Ray Data's actors warn at each start that their arguments live in the object store.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


def _stage(name: str) -> Callable[[Run, Config, Session], object]:
    """The function of a stage; imported here, so that a stage loads only what it needs."""
    module = {"proxy": "train"}.get(name, name)
    function = getattr(importlib.import_module(f"jobs.{module}"), name)
    if name == "prepare":

        def prepare(run: Run, config: Config, session: Session) -> object:
            if config.corpus.source != "demo" and run.done(name) is None:
                session.start_ray()
            return function(run, config)

        return prepare
    if name in ("select", "report"):
        return lambda run, config, session: function(run, config)
    return function
