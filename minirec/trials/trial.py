"""The trials of a sweep or comparison: each trains one selection with one seed.

`minirec sweep` varies settings of the selection. `minirec compare` varies the method, at equal
steps or at equal epochs, or any settings, at equal steps or at equal cost.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minirec.config.reading import changed, preset_values
from minirec.config.run import Config
from minirec.config.training import OF_ROLLOUTS
from minirec.config.trials import CompareConfig
from minirec.errors import ConfigError
from minirec.rng import seed_of
from minirec.store.run import Run
from minirec.trials import variants
from minirec.trials.variants import EQUAL_STEPS, EQUAL_TOKENS

FOLDERS = {"sweep": "sweep", "compare": "comparison"}
"""Command -> folder in the run directory with one folder per trial."""
AXES = {
    "budget": "selection.budget",
    "alpha": "selection.alpha",
    "groups": "selection.groups",
    "learnability": "selection.learnability",
}
"""List of the section `sweep` -> the setting that it varies."""
FULL = "full"
EQUAL_EPOCHS = "epochs"
SUPERVISED = "supervised"
WHOLE = {FULL, SUPERVISED}
"""Methods that train on all samples, so that they have no budget."""
FREE = {"random", *WHOLE}
"""Methods that use no rewards. A comparison charges them only with their own training, and with
the warm start if they start from it."""
FREE_ORDER = variants.UNSCORED_ORDER
"""The curriculum of `FREE` in a comparison, because any other order uses rewards."""
PRESETS = ("minirec", "paper")
Value = float | int | str


@dataclass(frozen=True)
class Trial:
    """One training of a sweep or comparison.

    name: of its folder. setting: the name without the seed. features_seed: of what trials share,
    such as warm start, proxy and features; the seed of `config` is that of selection and training.
    varied: the axes of a sweep; of a comparison
    method, table and budget, or variant and table.
    """

    name: str
    setting: str
    config: Config
    features_seed: int
    varied: Mapping[str, Value] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Name of the selection. In a comparison it can be a preset, or the variant."""
        named = self.variant or self.varied.get("method", self.config.selection.method)
        return str(named)

    @property
    def variant(self) -> str | None:
        """Name of the variant of a comparison; None for a method."""
        name = self.varied.get("variant")
        return None if name is None else str(name)

    @property
    def table(self) -> str:
        """Table of a comparison: `EQUAL_STEPS`, `EQUAL_EPOCHS`, `EQUAL_TOKENS`; empty: of all."""
        return str(self.varied.get("table", ""))

    @property
    def free(self) -> bool:
        """Whether neither the choice, nor the order, nor the start of training needs the proxy."""
        return variants.is_unscored(self.config)


def static(config: Config) -> Config:
    """The settings of a sweep or comparison: trials choose before their training.

    Only a variant can choose in each step, by `selection.mode` of its own.
    """
    return changed(config, {"selection.mode": "static"})


def trials_of(config: Config, command: str, samples: int) -> list[Trial]:
    """The trials of ``sweep`` or ``compare``, each in a folder below that of `FOLDERS`.

    `samples` is the number in the train split; a sweep depends on it.

    Raises:
        ConfigError: there is nothing to vary, or a value is invalid.
    """
    config = static(config)
    return _sweep(config, samples) if command == "sweep" else _comparison(config)


def _sweep(config: Config, samples: int) -> list[Trial]:
    """All combinations of the lists, each with all seeds.

    Small budgets come first, so that ASHA compares a trial with cheaper ones, and a cheap trial is
    not stopped because it is worse than an expensive one.
    """
    sweep = config.sweep
    if not sweep.varies:
        raise ConfigError(
            "sweep has nothing to vary; set one of its lists, e.g. 'sweep.budget=[0.05, 0.1]'"
        )
    lists = {axis: getattr(sweep, axis) for axis in AXES if getattr(sweep, axis)}
    grid = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    if sweep.samples is not None and sweep.samples < len(grid):
        draw = random.Random(seed_of(config.seed, "sweep"))
        grid = [grid[i] for i in sorted(draw.sample(range(len(grid)), sweep.samples))]
    trials = [
        _trial(config, "sweep", varied, seed, {AXES[axis]: value for axis, value in varied.items()})
        for varied in grid
        for seed in sweep.seeds or (config.seed,)
    ]
    trials.sort(key=lambda trial: trial.config.selection.count(samples))
    # Rungs take the place of patience, which would stop trials on its own.
    own = config.training.validation_steps is not None and config.training.patience is None
    if sweep.asha is None or own:
        return trials
    return [_with_rungs(trial, sweep.asha.grace_fraction, samples) for trial in trials]


def _with_rungs(trial: Trial, grace_fraction: float, samples: int) -> Trial:
    """The trial with a validation at each rung of ASHA, a multiple of the grace fraction."""
    config = trial.config
    steps = config.training.steps_on(config.selection.count(samples))
    every = math.ceil(grace_fraction * steps)
    values = {"training.validation_steps": every, "training.patience": None}
    return replace(trial, config=changed(config, values))


def _comparison(config: Config) -> list[Trial]:
    """All methods at all budgets and all variants, seed by seed, so that an interrupted one has
    complete seeds.
    """
    c = config.compare
    tables = [t for t, n in ((EQUAL_STEPS, c.steps), (EQUAL_EPOCHS, c.epochs)) if n]
    costs = [t for t, n in ((EQUAL_STEPS, c.steps), (EQUAL_TOKENS, c.tokens)) if n]
    if not c.varies or (c.methods and not tables) or (c.variants and not costs):
        raise ConfigError(
            "compare has nothing to compare; give compare.methods, e.g. '[random, minirec]', and "
            "compare.steps or compare.epochs, or compare.variants and compare.steps or "
            "compare.tokens"
        )
    named = {(name, t): variants.values(config, name, t) for name in c.variants for t in costs}
    return [
        trial
        for seed in c.seeds
        for trial in (
            *(
                _trial(config, "compare", m, seed, _values(config, **m))
                for m in _methods(c, tables)
            ),
            *(
                _trial(config, "compare", {"variant": name, "table": table}, seed, values)
                for (name, table), values in named.items()
            ),
        )
    ]


def _methods(c: CompareConfig, tables: Sequence[str]) -> list[dict[str, Value]]:
    """What varies over the methods: full data once, and each method at each budget."""
    grid: list[dict[str, Value]] = [{"method": FULL}] if c.full_steps and c.methods else []
    for table, method in itertools.product(tables, c.methods):
        one: dict[str, Value] = {"method": method, "table": table}
        grid += [one] if method in WHOLE else [one | {"budget": budget} for budget in c.budget]
    return grid


def _values(
    config: Config, *, method: Any, table: Any = None, budget: Any = None
) -> dict[str, Any]:
    """Dotted settings of a trial of a comparison."""
    c = config.compare
    values = {
        **selection_of(method),
        "training.validation_steps": c.validation_steps,
        "training.start": _start(config, method),
        "evaluation.train_samples": c.train_samples,
    }
    if method in FREE:
        values["selection.curriculum"] = FREE_ORDER
    if method == FULL:
        return values | {
            "training.steps": c.full_steps,
            "training.patience": c.patience,
            # With early stopping, the last step and so the end of a schedule is unknown.
            "training.lr_schedule": "constant",
        }
    if method == SUPERVISED:
        values |= {"training.loss": "supervised", "training.staleness": 0}
        values |= {f"training.{name}": value for name, value in OF_ROLLOUTS.items()}
        if config.reward.reads_texts:  # there are no texts, and no rewards
            values |= {"reward.judge": None, "reward.name": type(config.reward)().name}
    else:
        values["selection.budget"] = budget
    return values | {
        "training.patience": None,  # all train for the same number of steps
        "training.steps": c.steps if table == EQUAL_STEPS else None,
        "training.epochs": c.epochs if table == EQUAL_EPOCHS else 1.0,
    }


def _start(config: Config, method: str) -> str:
    """Only `minirec` goes on with the proxy; all but `supervised` share the warm start."""
    start = config.training.start
    if method == "minirec" or (start == "warm" and method != SUPERVISED):
        return start
    return "base"


def selection_of(method: str) -> dict[str, Any]:
    """Dotted settings of the selection of a method in a comparison.

    The paper's selection comes from its preset. A baseline is trained in the order of the config.
    No baseline reads `selection.directions`, so none is charged with gradients.
    """
    if method in PRESETS:
        values = preset_values(method)["selection"] | {"method": "value", "mode": "static"}
        return {f"selection.{k}": v for k, v in values.items()}
    chosen = FULL if method == SUPERVISED else method
    return {"selection.method": chosen, "selection.directions": "head_hvp"}


def _trial(
    config: Config, command: str, varied: Mapping[str, Value], seed: int, values: dict[str, Any]
) -> Trial:
    words = [
        str(value) if axis in ("method", "variant", "table") else f"{axis}-{_short(value)}"
        for axis, value in varied.items()
    ]
    setting = "_".join(words) or "setting"
    name = f"{setting}_seed-{seed}"
    # All trials validate on the same samples, so that they can be compared.
    draw = config.training.validation_seed
    changes: dict[str, Any] = {
        "run_dir": str(Run(config.run_dir).path(FOLDERS[command], name)),
        "seed": seed,
        "training.validation_seed": config.seed if draw is None else draw,
        "evaluation.policies": ["trained"],
        "sasrec.epochs": 0,  # it does not depend on the trial
        "sweep": {},
        "compare": {},
        **values,
    }
    return Trial(name, setting, changed(config, changes), config.seed, varied)


def _short(value: Value) -> str:
    """1.0 as 1, otherwise all digits, so that different values have different names."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
