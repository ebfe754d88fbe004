"""The trials of a sweep, ready to run."""

from __future__ import annotations

import math
from dataclasses import replace

from jobs.train import training_steps
from minirec.artifacts import Run
from minirec.config import Config
from minirec.errors import ConfigError
from minirec.settings import changed
from minirec.sweep import Trial, trials


def trials_of(config: Config, samples: int) -> list[Trial]:
    """The trials of a sweep over a corpus of `samples`, each in its folder below ``trials/``.

    Small budgets first: ASHA then compares a trial with those that cost less, and a cheap one is
    not stopped for being worse than a dear one.

    Raises:
        ConfigError: no list of the sweep has a value, or a value is refused.
    """
    if not config.sweep.varies:
        raise ConfigError(
            "sweep has nothing to vary; give one of its lists, e.g. 'sweep.budget=[0.05, 0.1]'"
        )
    planned = trials(config, folder=Run(config.run_dir).path("trials"))
    planned.sort(key=lambda trial: trial.config.selection.count(samples))
    asha = config.sweep.asha
    if asha is None or config.training.validation_steps is not None:
        return planned
    return [_with_rungs(trial, asha.grace_fraction, samples) for trial in planned]


def _with_rungs(trial: Trial, grace_fraction: float, samples: int) -> Trial:
    """With a validation at each rung of ASHA; rungs are multiples of the grace fraction."""
    config = trial.config
    steps = training_steps(config.training, config.selection.count(samples))
    every = math.ceil(grace_fraction * steps)
    return replace(trial, config=changed(config, {"training.validation_steps": every}))
