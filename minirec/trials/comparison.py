"""The trials of a comparison: what each method trains on, at equal steps or at equal epochs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirec.config.reading import changed, preset_values
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.trials.sweep import Trial

FULL = "full"
EQUAL_STEPS, EQUAL_EPOCHS = "steps", "epochs"
FREE = {"random", FULL}
"""Methods that look at no reward: nothing is charged to them but their own training."""
FREE_ORDER = "shuffled"
"""Their curriculum, for the same reason."""
PRESETS = ("minirec", "paper")


@dataclass(frozen=True)
class Contender(Trial):
    """A method at a budget with a seed; `table` is `EQUAL_STEPS` or `EQUAL_EPOCHS`.

    Full data has no table: its training ends by itself. `setting` names all but the seed.
    """

    method: str
    table: str
    budget: float | int | None


def contenders(config: Config, *, folder: Path) -> list[Contender]:
    """All trials of a comparison, seed by seed, so that one that is cut short has whole seeds.

    Args:
        config: of the comparison.
        folder: each trial gets a folder below, with the name of the trial.

    Raises:
        ConfigError: no method, no table, or a value that a setting refuses.
    """
    c = config.compare
    tables = [(EQUAL_STEPS, c.steps), (EQUAL_EPOCHS, c.epochs)]
    tables = [(table, length) for table, length in tables if length is not None]
    if not c.methods or not tables:
        raise ConfigError(
            "compare has nothing to compare; give compare.methods, e.g. '[random, minirec]', and "
            "compare.steps or compare.epochs"
        )
    found = []
    for seed in c.seeds:
        if c.full_steps:
            found.append(_full(config, seed, folder))
        for (table, length), method, budget in itertools.product(tables, c.methods, c.budget):
            setting = f"{method}_{table}_budget-{budget}"
            values = {
                **selection_of(method),
                **({"selection.curriculum": FREE_ORDER} if method in FREE else {}),
                "training.start": config.training.start if method == "minirec" else "base",
                "selection.budget": budget,
                "training.patience": None,  # all train as long
                "training.steps": length if table == EQUAL_STEPS else None,
                "training.epochs": length if table == EQUAL_EPOCHS else 1.0,
            }
            trial = _config(config, f"{setting}_seed-{seed}", seed, folder, values)
            name = Path(trial.run_dir).name
            found.append(Contender(name, setting, trial, method, table, budget))
    return found


def selection_of(method: str) -> dict[str, Any]:
    """Dotted settings of the selection that a method stands for.

    The paper's selection is that of its preset; a baseline chooses, and is trained in the order
    of the config, as ours is, unless it is one of `FREE`. No baseline reads `selection.directions`,
    so none is charged with the gradients that these may need.
    """
    if method in PRESETS:
        values = preset_values(method)["selection"]
        return {"selection.method": "value"} | {f"selection.{k}": v for k, v in values.items()}
    return {"selection.method": method, "selection.directions": "head_hvp"}


def _full(config: Config, seed: int, folder: Path) -> Contender:
    values = {
        **selection_of(FULL),
        "selection.curriculum": FREE_ORDER,
        "training.start": "base",
        "training.steps": config.compare.full_steps,
        "training.patience": config.compare.patience,
        # What ends by itself cannot know when its rate is to reach 0.
        "training.lr_schedule": "constant",
    }
    trial = _config(config, f"{FULL}_seed-{seed}", seed, folder, values)
    return Contender(Path(trial.run_dir).name, FULL, trial, FULL, "", None)


def _config(config: Config, name: str, seed: int, folder: Path, values: dict[str, Any]) -> Config:
    # Validation samples are those of the comparison's seed, so that trials compare.
    draw = config.training.validation_seed
    return changed(
        config,
        {
            "run_dir": str(folder / name),
            "seed": seed,
            "training.validation_steps": config.compare.validation_steps,
            "training.validation_seed": config.seed if draw is None else draw,
            "evaluation.policies": ["trained"],
            "evaluation.train_samples": config.compare.train_samples,
            "sweep": {},
            "compare": {},
            **values,
        },
    )
