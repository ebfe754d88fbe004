"""What live selection trained, when and why: a row for each prompt of each step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.corpus import schema
from minirec.selection.checks import Floats
from minirec.selection.live import (
    ALIVE,
    FORCED,
    IN_BAND,
    INFLUENCE,
    NEAREST,
    RETRIED,
    ROLLOUTS,
    UNKNOWN,
    VALUE,
    Choice,
    LiveSelection,
)

REASONS = (IN_BAND, UNKNOWN, NEAREST, VALUE, ALIVE, RETRIED, INFLUENCE)
"""Why a sample was taken; a record holds their positions."""
PARTS = 4
"""Parts of a training that a selection shows as its groups."""


class Record:
    """The choices of a training. Each list has an entry for each step, (P,) of its prompts."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.columns: dict[str, list[NDArray]] = {
            name: [] for name in ("sample_id", "reason", "lift", "rollout_lift", "reward")
        }

    def add(self, step: int, selection: LiveSelection, choice: Choice) -> None:
        """Note the choice of a step; the rewards are not known yet."""
        self.steps.append(step)
        unknown = np.full(len(choice.rows), np.nan)
        found = {
            "sample_id": selection.ids[choice.rows],
            "reason": np.array([REASONS.index(why) for why in choice.reasons], np.int64),
            "lift": selection.memory.lift[FORCED, choice.rows],
            "rollout_lift": unknown,
            "reward": unknown.copy(),
        }
        for name, values in found.items():
            self.columns[name].append(values)

    def reward(self, step: int, lifts: Floats, rewards: Floats) -> None:
        """Note the mean lift (P,) and the mean reward (P,) of the rollouts of a step."""
        at = self.steps.index(step)
        self.columns["rollout_lift"][at] = lifts
        self.columns["reward"][at] = rewards

    def table(self, *, without: Collection[int] = ()) -> pa.Table:
        """The choices as a table (`schema.CHOICES`), in the order of training.

        `without`: steps that were chosen but not trained.
        """
        kept = [i for i, step in enumerate(self.steps) if step not in without]
        flat = {
            name: np.concatenate([parts[i] for i in kept]) for name, parts in self.columns.items()
        }
        reasons = [REASONS[code] for code in flat.pop("reason").tolist()]
        counts = [len(self.columns["sample_id"][i]) for i in kept]
        steps = np.repeat(np.array([self.steps[i] for i in kept], np.int64), counts)
        return pa.table({"step": steps, "reason": reasons, **flat}, schema=schema.CHOICES)

    def state(self) -> dict[str, NDArray]:
        """For a checkpoint: (S, P) arrays, and the steps (S,)."""
        return {"steps": np.array(self.steps)} | {k: np.array(v) for k, v in self.columns.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.steps = [int(step) for step in state["steps"]]
        self.columns = {name: list(state[name]) for name in self.columns}


def lift_table(selection: LiveSelection) -> pa.Table:
    """What is known about each sample (`schema.LIFTS`), in the order of the ids."""
    ids = selection.ids
    first = min(selection.cursor, len(ids))
    reached = np.zeros(len(ids), bool)
    reached[[selection.stream.at(position)[1] for position in range(first)]] = True
    columns = {
        "sample_id": ids,
        "reached": reached,
        "lift": selection.memory.lift[FORCED],
        "rollout_lift": selection.memory.lift[ROLLOUTS],
    }
    return pa.table(columns, schema=schema.LIFTS)


def as_selection(choices: pa.Table) -> pa.Table:
    """The distinct samples of choices in the order of their first training (`schema.SELECTION`).

    The group is the quarter of the training in which it was. Its reward is the first one. The
    scores of a static selection are NaN.
    """
    ids = choices["sample_id"].to_numpy()
    _, first = np.unique(ids, return_index=True)
    first = np.sort(first)
    step = choices["step"].to_numpy()
    none = np.full(len(first), np.nan)
    return pa.table(
        {
            "rank": np.arange(len(first), dtype=np.int64),
            "sample_id": ids[first],
            "group": (PARTS * step[first] // (step.max() + 1)).astype(np.int32),
            **dict.fromkeys(("value", "novelty", "learnability", "representativeness"), none),
            "mean_reward": choices["reward"].to_numpy()[first],
        },
        schema=schema.SELECTION,
    )


def summary(
    choices: pa.Table, *, samples: int, band: tuple[float, float], rule: str = "band"
) -> list[str]:
    """Sentences about choices by `live.rule` in a corpus of `samples`, for the user."""
    ids, reasons = choices["sample_id"].to_numpy(), choices["reason"].to_pylist()
    prompts, distinct = len(ids), len(np.unique(ids))
    if rule == "influence":
        return [
            f"{prompts:,} prompts of {distinct:,} samples, {distinct / samples:.0%} of the corpus, "
            f"each with an influence on the validation samples that was among the highest of its "
            f"pool"
        ]
    if rule == "skip":
        return [
            f"{prompts:,} prompts of {distinct:,} samples, {distinct / samples:.0%} of the corpus; "
            f"the rollouts of {reasons.count(ALIVE) / prompts:.0%} had differed before, "
            f"{reasons.count(UNKNOWN) / prompts:.0%} were new, and "
            f"{reasons.count(RETRIED) / prompts:.0%} were tried again though all had earned the "
            f"same"
        ]
    inside = sum(reasons.count(why) for why in (IN_BAND, VALUE))
    lines = [
        f"{prompts:,} prompts of {distinct:,} samples, {distinct / samples:.0%} of the corpus; "
        f"{inside / prompts:.0%} were known to be learnable when they were chosen (lift from "
        f"{band[0]:g} to {band[1]:g}), {reasons.count(UNKNOWN) / prompts:.0%} had no known lift"
    ]
    if outside := reasons.count(NEAREST):
        lines.append(
            f"{outside:,} of them were outside the band {band[0]:g} to {band[1]:g}, because too "
            f"few candidates were inside; widen live.band or raise live.candidates"
        )
    return lines


def eligible(lifts: Sequence[float], band: tuple[float, float]) -> str | None:
    """How many samples live selection would train now, by the lifts of their forced answers.

    NaN are unknown lifts. None if all are unknown.
    """
    known = np.asarray(lifts, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    low, high = (known < band[0]).mean(), (known > band[1]).mean()
    return (
        f"right after the prompt {low:.0%} of {len(known):,} samples are hopeless (lift below "
        f"{band[0]:g}), {1 - low - high:.0%} learnable, {high:.0%} solved (above {band[1]:g})"
    )
