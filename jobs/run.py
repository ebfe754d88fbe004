"""All stages in order, and the loop that runs them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from jobs.stage import Stage
from jobs.stages.evaluate import EVALUATE
from jobs.stages.gradients import GRADIENTS
from jobs.stages.model import MODEL
from jobs.stages.prepare import PREPARE
from jobs.stages.prior import PRIOR
from jobs.stages.proxy import PROXY
from jobs.stages.report import REPORT
from jobs.stages.sasrec import SASREC
from jobs.stages.score import SCORE
from jobs.stages.select import SELECT
from jobs.stages.train import TRAIN
from jobs.stages.warm import WARM
from minirec.store.files import atomic
from minirec.store.lease import held
from minirec.store.run import Run

if TYPE_CHECKING:
    from minirec.config.run import Config

STAGES = (
    PREPARE,
    PRIOR,
    SASREC,
    MODEL,
    WARM,
    PROXY,
    SCORE,
    GRADIENTS,
    SELECT,
    TRAIN,
    EVALUATE,
    REPORT,
)
SHARED = {stage.name: stage.outputs for stage in STAGES if stage.shared}
"""The outputs of the stages that all trials share, by stage."""


def stages(
    config: Config,
    names: tuple[str, ...],
    *,
    overwrite: bool = False,
    check: Callable[[int, int], object] | None = None,
    recorded: Config | None = None,
    start_of: str | None = None,
) -> Run:
    """Run the named stages in order; first compare the finished stages before them.

    Args:
        overwrite: redo stages that were made with other settings. If one stage is named, redo it
            even with the same settings.
        check: called with the numbers of training and validation samples once they are known. It
            can refuse the settings before the long stages start.
        recorded: the settings to write to config.yaml; default `config`.
        start_of: the command that goes on after these stages, for those who watch the run.

    Raises:
        ArtifactError: another command uses the directory, a stage was made with other settings,
            or an input is missing.
    """
    from jobs.console import pulse, quiet, say

    quiet(config)  # Ray reads some of the variables when it is imported
    from jobs.cluster.session import Session
    from jobs.progress import reporting
    from minirec.config.reading import dump
    from minirec.corpus.table import count_samples

    asked = stages_of(config, names)
    redo = names if overwrite and len(names) == 1 else ()
    run = Run(config.run_dir, overwrite=overwrite, redo=redo, say=say)

    def checked(stage: Stage) -> None:
        if check is not None and stage.name == "prepare":
            corpus = run.path("corpus")
            check(count_samples(corpus, "train"), count_samples(corpus, "valid"))

    several = sum(stage.trains for stage in asked) > 1
    command = start_of or (names[0] if len(names) == 1 else "run")
    announced = [stage.name for stage in asked] + ([start_of] if start_of else [])
    with (
        holding(run),
        reporting(run, command, announced, goes_on=start_of is not None) as begins,
        Session(config, keeps_worker=several) as session,
    ):
        if any(stage.on_ray and run.done(stage.name) is None for stage in asked):
            session.join_cluster()
        for stage in STAGES[: STAGES.index(asked[-1])]:
            if stage not in asked and stage.needed(config) and run.done(stage.name):
                with pulse(stage.name):
                    stage.compare(run, config)
                checked(stage)
        for stage in asked:
            begins(stage.name)
            with pulse(stage.name):
                stage.run(run, config, session)
            with atomic(run.path("config.yaml")) as file:
                file.write(dump(recorded or config).encode())
            checked(stage)
    return run


def stages_of(config: Config, names: tuple[str, ...]) -> tuple[Stage, ...]:
    """The named stages and the needed stages that come with them.

    A stage that is named alone runs even if these settings do not need it.
    """

    def runs(stage: Stage) -> bool:
        named = bool({stage.name, *stage.comes_with} & set(names))
        return names == (stage.name,) or (named and stage.needed(config))

    return tuple(stage for stage in STAGES if runs(stage))


def holding(run: Run) -> AbstractContextManager[None]:
    """Lock the run directory for this command; interrupt the command if it loses the lease."""
    from jobs.console import say

    # A command that a shell script starts in the background ignores SIGINT.
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN

    def lost(reason: str) -> None:
        say(f"{reason}; this command stops")
        main = threading.main_thread().ident
        assert main is not None
        # Only a real signal wakes a main thread that waits for another thread.
        signal.pthread_kill(main, signal.SIGTERM if ignored else signal.SIGINT)

    return held(run.root, lost=lost)
