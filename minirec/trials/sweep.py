"""The trials of a sweep: combinations of settings, each with a config of its own."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minirec.config.reading import changed
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.rng import seed_of
from minirec.store.run import Run

AXES = {
    "budget": "selection.budget",
    "alpha": "selection.alpha",
    "groups": "selection.groups",
    "learnability": "selection.learnability",
}
"""What is varied, but the seed: list of the section `sweep` -> setting."""


@dataclass(frozen=True)
class Trial:
    """One combination with one seed. `setting` names the combination, `name` the trial."""

    name: str
    setting: str
    config: Config


def trials(config: Config, *, folder: Path) -> list[Trial]:
    """The trials by setting, in the order of the lists, then by seed.

    Args:
        config: of the sweep.
        folder: each trial gets a folder below, with the name of the trial.

    Raises:
        ConfigError: a value that the setting refuses.
    """
    sweep = config.sweep
    values = {axis: getattr(sweep, axis) for axis in AXES if getattr(sweep, axis)}
    settings = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    if sweep.samples is not None and sweep.samples < len(settings):
        draw = random.Random(seed_of(config.seed, "sweep"))
        settings = [settings[i] for i in sorted(draw.sample(range(len(settings)), sweep.samples))]
    return [
        _trial(config, setting, seed, folder)
        for setting in settings
        for seed in sweep.seeds or (config.seed,)
    ]


def _trial(config: Config, setting: dict[str, float | int | str], seed: int, folder: Path) -> Trial:
    words = [f"{axis}-{_short(value)}" for axis, value in setting.items()]
    label = "_".join(words) or "setting"
    name = f"{label}_seed-{seed}"
    # Validation samples are those of the sweep's seed, so that trials compare.
    draw = config.training.validation_seed
    changes: dict[str, Any] = {
        "run_dir": str(folder / name),
        "seed": seed,
        "training.validation_seed": config.seed if draw is None else draw,
        "evaluation.policies": ["trained"],
        "sweep": {},
        **{AXES[axis]: value for axis, value in setting.items()},
    }
    return Trial(name, label, changed(config, changes))


def _short(value: float | int | str) -> str:
    """1.0 as 1, else all digits, so that no two values have one name."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def trials_of(config: Config, samples: int) -> list[Trial]:
    """The trials of a sweep over a corpus of `samples`, each in its folder below ``trials/``.

    Small budgets first: ASHA then compares a trial with those that cost less, and a cheap one is
    not stopped for being worse than an expensive one.

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
    steps = config.training.steps_on(config.selection.count(samples))
    every = math.ceil(grace_fraction * steps)
    return replace(trial, config=changed(config, {"training.validation_steps": every}))
