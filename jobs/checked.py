"""`minirec run`, the commands of stages and of trials, with the checks before they start.

The command line and `jobs.api` share these functions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jobs import run
from minirec.errors import ConfigError

if TYPE_CHECKING:
    from minirec.config.run import Config
    from minirec.store.run import Run


def run_stages(config: Config, command: str, *, overwrite: bool = False) -> Run:
    """Run all stages, or the one that `command` names, with settings that can work.

    Raises:
        ConfigError: the settings cannot work.
        ArtifactError: as `jobs.run.stages`.
    """
    from jobs.console import say
    from minirec.trials.checks import check

    check_plan(config, command, overwrite=overwrite)
    order = [stage.name for stage in run.STAGES]
    names = tuple(order) if command == "run" else (command,)

    def counted(samples: int, valid: int) -> None:
        """Apply the checks of the stage that chooses early. A stage before it only warns."""
        chooses = "train" if config.selection.mode == "live" else "select"
        try:
            check(config, samples, valid=valid)
        except ConfigError as error:
            if chooses in names:
                raise
            if names[0] in order[: order.index(chooses)]:
                say(f"`minirec {chooses}` would refuse these settings: {error}")

    return run.stages(config, names, overwrite=overwrite, check=counted)


def run_trials(config: Config, command: str, *, overwrite: bool = False) -> Run:
    """Run all trials of a ``sweep`` or ``compare``; raises as `jobs.trials.bench.run_bench`."""
    check_plan(config, command, overwrite=overwrite)
    # Both must be set before ray is imported. After Ctrl-C, Tune's thread would start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # Trials have many idle processes, and Ray would warn about their number.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started")
    from jobs.trials.bench import run_bench

    return run_bench(command, config, overwrite=overwrite)


def check_plan(config: Config, command: str, *, overwrite: bool) -> None:
    """Refuse settings that cannot work before anything starts."""
    from jobs.plan import plan

    plan(config, command=command, again=overwrite)
