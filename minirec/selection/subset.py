"""An ordered subset from a table of features: `minirec.select`, and `minirec select --features`.

Loads neither torch nor ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from minirec.config.reading import configured
from minirec.config.section import plain_number
from minirec.config.selection import SelectionConfig
from minirec.corpus import schema
from minirec.errors import ArtifactError, ConfigError
from minirec.selection.features import Features
from minirec.selection.pipeline import Say, arms_of, ordered, pick, score_samples
from minirec.selection.readers import COLUMNS
from minirec.selection.summary import summary
from minirec.selection.tables import read_features

if TYPE_CHECKING:
    import pandas as pd

NO_EFFECT = ("mode", "shards")
"""Settings of the selection that a subset from a table does not depend on."""


@dataclass(frozen=True)
class Subset:
    """What was chosen from a table.

    Attributes:
        scores: a row for each of the N samples, as in ``scores.parquet``.
        selection: the chosen samples in training order, as in ``selection.parquet``.
        lines: a summary for the user.
    """

    scores: pa.Table
    selection: pa.Table
    lines: list[str]


def choose(
    features: Features, settings: SelectionConfig, *, seed: int, chance: float, say: Say
) -> Subset:
    """Score, pick and order.

    Args:
        features: of N samples.
        settings: of the selection; `NO_EFFECT` are not read.
        seed: of methods and curricula that draw at random.
        chance: as in `select`.
        say: called with each line about what the features lack.

    Raises:
        ConfigError: the settings do not fit the features.
        FeatureError: the features lack what the method needs.
    """
    scores, pool = score_samples(features, settings, chance=chance, say=say)
    picks = pick(features, scores["value"], pool, settings, seed=seed, say=say)
    arms = arms_of(features, settings, seed=seed)
    return Subset(
        scores=pa.table(scores, schema=schema.SCORES),
        selection=ordered(scores, picks, settings, seed=seed, arms=arms),
        lines=summary(features, scores, picks.indices, pool),
    )


def check_chance(chance: float, name: str) -> None:
    """Raise `ConfigError` unless 0 <= chance < 1; `name` is that of the argument."""
    number = isinstance(chance, int | float) and not isinstance(chance, bool)
    if not number or not 0 <= chance < 1:
        shown = f"{chance:g}" if number else repr(chance)
        raise ConfigError(f"{name} is {shown}; expected at least 0 and below 1")


def select(
    table: str | Path | pa.Table | pd.DataFrame,
    *,
    budget: int | float | None = None,
    method: str | None = None,
    chance: float = 0.0,
    seed: int = 42,
    preset: str = "minirec",
    say: Say = lambda line: None,
    **settings: Any,
) -> pa.Table | pd.DataFrame:
    """Choose the samples that are worth training on, and put them in training order.

    This is `minirec select --features` as a function. It needs no corpus and no model, and starts
    no process.

    Args:
        table: a pandas DataFrame, a pyarrow Table, or the path of a file (.parquet, .jsonl,
            .ndjson, .npz) or of a folder of Parquet parts. A row is a sample, with the column
            ``sample_id`` and a column of rewards: ``rewards`` (a list with the reward of each
            rollout), ``reward`` or ``mean_reward``, or ``ndcg``. Further columns that are used:
            ``hits``, ``rollouts``, ``el2n``, ``embedding``, ``hvp``, ``gradient``,
            ``rollout_gradient``, ``lora_gradient``. All others are ignored.
        budget: samples to choose: a number, or a share of the table (below 1). Default: 0.1.
        method: how they are chosen; `minirec settings selection.method` lists the names. Default:
            by value and diversity.
        chance: NDCG of a policy that ranks at random, or its reward if the table has no ``ndcg``;
            at least 0 and below 1.
        seed: of what is drawn at random; the same seed gives the same subset.
        preset: the defaults of all other settings.
        say: called with each line for the user, e.g. ``print``; nothing is printed by default.
        **settings: other settings of the section `selection`, without its name:
            ``curriculum="easy_to_hard"``, ``groups=8``.

    Returns:
        A row for each chosen sample, in training order: ``rank``, ``sample_id``, ``group``,
        ``value`` and its parts, ``novelty``, ``mean_reward``. A pandas DataFrame for a
        DataFrame, otherwise a pyarrow Table.

    Raises:
        ConfigError: a setting is unknown or does not fit the table.
        ArtifactError: the table cannot be used; the message names row, column and value.
        FeatureError: the table lacks a column that the method needs.

    Example:
        >>> import minirec, pandas as pd
        >>> rollouts = pd.DataFrame({"sample_id": [7, 8, 9], "rewards": [[0, 1], [0, 0], [1, 1]]})
        >>> minirec.select(rollouts, budget=1, groups=1)["sample_id"].tolist()
        [7]
    """
    chance = plain_number(chance)
    check_chance(chance, "chance")
    for name in settings:
        if name in NO_EFFECT:
            raise ConfigError(f"{name} has no effect on a subset of a table; leave it out")
    named = {"budget": budget, "method": method}
    settings |= {name: value for name, value in named.items() if value is not None}
    values = {f"selection.{name}": plain_number(value) for name, value in settings.items()}
    config = configured({"preset": preset, "seed": plain_number(seed)}, values)
    source, as_frame = _source(table)
    features = read_features(source, chance=chance)
    found = choose(features, config.selection, seed=config.seed, chance=chance, say=say)
    for line in found.lines:
        say(line)
    return found.selection.to_pandas() if as_frame else found.selection


def _source(table: Any) -> tuple[Path | pa.Table, bool]:
    """What `read_features` takes, and whether the table is a DataFrame."""
    if isinstance(table, pa.Table):
        return table, False
    if isinstance(table, str | Path):
        return Path(table).expanduser(), False
    # A DataFrame is recognised without loading pandas.
    if type(table).__module__.split(".")[0] != "pandas" or not hasattr(table, "columns"):
        raise ArtifactError(
            f"the table is a {type(table).__name__}; give a pandas DataFrame, a pyarrow Table or "
            f"the path of a file"
        )
    arrays: dict[str, Any] = {}
    for name in [name for name in COLUMNS if name in table.columns]:
        column = table[name]
        if getattr(column, "ndim", 1) != 1:
            raise ArtifactError(f"the table has several columns {name}; keep one")
        try:
            arrays[name] = pa.Array.from_pandas(column)
        except (pa.ArrowException, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"the table column {name} is neither numbers nor lists of numbers: {reason}"
            ) from None
    if arrays and "sample_id" not in arrays and table.index.name == "sample_id":
        arrays["sample_id"] = pa.Array.from_pandas(table.index)
    return pa.table(arrays), True
