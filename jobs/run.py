"""All stages in order."""

from __future__ import annotations

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
    with atomic(run.path("config.yaml")) as file:
        file.write(dump(config).encode())
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Session(config) as session:
        for name in names:
            _stage(name)(run, config, session)
    return run


def _stage(name: str) -> Callable[[Run, Config, Session], object]:
    """The function of a stage; imported here, so that `--help` loads none of them."""
    if name == "prepare":
        from jobs.prepare import prepare

        def prepared(run: Run, config: Config, session: Session) -> object:
            if run.done("prepare") is None and config.corpus.source != "demo":
                session.start_ray()
            return prepare(run, config)

        return prepared
    if name in ("select", "report"):
        from jobs import report, select

        alone = {"select": select.select, "report": report.report}[name]
        return lambda run, config, session: alone(run, config)
    from jobs import evaluate, score, train

    return {
        "proxy": train.proxy,
        "score": score.score,
        "train": train.train,
        "evaluate": evaluate.evaluate,
    }[name]
