"""Self-paced curriculum: a bandit over clusters draws the samples of a step.

After SPaRFT (arXiv 2508.05015), whose Gaussian Thompson sampling takes hard clusters first. Its
formulas could not be verified. The arm value `signal` and the decay are ours: hard first would be
stuck on clusters in which nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minirec.corpus import schema
from minirec.rng import seed_of
from minirec.selection.checks import Floats

Rows = NDArray[np.int64]
COLUMNS = ("row", "arm", "lift", "signal")


@dataclass(frozen=True)
class ArmStats:
    """What a bandit knows of K arms: decayed numbers of pulls, and values; both (K,) float64."""

    count: Floats
    value: Floats


class Pulls:
    """The pulls of the steps so far: rows, arms, lifts and signals, each (P,) of a step's prompts.

    row: of the prompt's sample, arm: its cluster.
    lift: mean lift of the rollouts of a prompt. signal: the standard deviation of their rewards,
    which is what GRPO can learn from.
    """

    def __init__(self) -> None:
        self.steps: dict[int, tuple[Rows, Rows, Floats, Floats]] = {}

    def add(self, step: int, rows: Rows, arms: Rows, lifts: Floats, signals: Floats) -> None:
        """Note the results of a step."""
        self.steps[step] = (rows, arms, lifts, signals)

    def stats(self, *, arms: int, before: int, memory: float, pace: str) -> ArmStats:
        """The arms after the steps below `before`.

        The value of an arm is a decayed mean over the steps that pulled it: of minus its lift
        (`hard`), of its signal (`signal`), or of the difference between its lift and the decayed
        mean of its lifts before (`progress`). An arm without a value gets the highest one known.
        Counts decay in each step, so that an arm that is not pulled becomes uncertain again.
        """
        count, value = np.zeros(arms), np.full(arms, np.nan)
        usual = np.full(arms, np.nan)
        for step in sorted(step for step in self.steps if step < before):
            _, pulled, lifts, signals = self.steps[step]
            times = np.bincount(pulled, minlength=arms)
            count = memory * count + times
            lift, signal = (
                np.bincount(pulled, weights=x, minlength=arms) / np.maximum(times, 1)
                for x in (lifts, signals)
            )
            new = {"hard": -lift, "signal": signal, "progress": np.abs(lift - usual)}[pace]
            value = _decayed(value, np.where(times > 0, new, np.nan), memory)
            usual = _decayed(usual, np.where(times > 0, lift, np.nan), memory)
        best = 0.0 if np.isnan(value).all() else float(np.nanmax(value))
        return ArmStats(count, np.where(np.isnan(value), best, value))

    def state(self) -> dict[str, NDArray]:
        """For a checkpoint: the steps (S,), and (S, P) arrays."""
        steps = sorted(self.steps)
        found = {"steps": np.array(steps, np.int64)}
        for i, name in enumerate(COLUMNS):
            found[name] = np.array([self.steps[step][i] for step in steps])
        return found

    def table(self, ids: Rows) -> pa.Table:
        """All pulls (`schema.PULLS`), in the order of training; ids (N,) are those of the rows."""
        steps = sorted(self.steps)
        flat = {
            name: np.concatenate([self.steps[step][i] for step in steps])
            for i, name in enumerate(COLUMNS)
        }
        counts = [len(self.steps[step][0]) for step in steps]
        flat |= {
            "step": np.repeat(np.array(steps, np.int64), counts),
            "sample_id": ids[flat["row"]],
        }
        return pa.table({n: flat[n] for n in schema.PULLS.names}, schema=schema.PULLS)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        columns = zip(*(state[name] for name in COLUMNS), strict=True)
        self.steps = dict(zip(state["steps"].tolist(), columns, strict=True))


def _decayed(old: Floats, new: Floats, memory: float) -> Floats:
    """memory x old + (1 - memory) x new; the one that is known if the other is NaN."""
    mixed = np.where(np.isnan(old), new, memory * old + (1 - memory) * new)
    return np.where(np.isnan(new), old, mixed)


def thompson(stats: ArmStats, normals: Floats, *, noise: float) -> Floats:
    """Draws (P, K) from N(value, noise^2 / (count + 1)), by standard normals (P, K)."""
    return stats.value + noise / np.sqrt(stats.count + 1) * normals


def draw_arms(
    stats: ArmStats, *, places: int, noise: float, seed: int, sizes: Rows | None = None
) -> Rows:
    """The arm (P,) int64 of each place of a step: that of the highest draw, ties to the lowest.

    Args:
        seed: of the step.
        sizes: (K,) samples of each arm. An arm that has given all of them in this step is left
            out, unless all arms have; None: arms have no end.
    """
    normals = np.random.default_rng(seed).standard_normal((places, len(stats.value)))
    draws = thompson(stats, normals, noise=noise)
    if sizes is None:
        return draws.argmax(1)
    given, found = np.zeros(len(sizes), np.int64), []
    for row in draws:
        left = given < sizes if (given < sizes).any() else sizes > 0
        arm = int(np.where(left, row, -np.inf).argmax())
        given[arm] += 1
        found.append(arm)
    return np.array(found, np.int64)


def arm_counts(arms: Rows, *, arms_in_all: int) -> dict[str, int]:
    """The prompts of each of K arms in a step, for the log."""
    counts = np.bincount(arms, minlength=arms_in_all).tolist()
    return {f"arm_{arm}": count for arm, count in enumerate(counts)}


def pace_seed(seed: int, step: int) -> int:
    """The seed of the draws of a step."""
    return seed_of(seed, "pace", step)


def by_arms(rows: Rows, arms: Rows, drawn: Rows) -> Rows:
    """Rows (n,) with arms (n,), reordered: for each drawn arm its next row, then the others.

    Rows of an arm stay in their order. A drawn arm without a row left gives none.
    """
    queues = {int(arm): np.flatnonzero(arms == arm).tolist() for arm in np.unique(arms)}
    first = []
    for arm in drawn.tolist():
        if queues.get(arm):
            first.append(queues[arm].pop(0))
    rest = np.setdiff1d(np.arange(len(rows)), first)
    return rows[np.concatenate([np.array(first, np.int64), rest])]


def history_means(histories: Sequence[Sequence[int]], table: Floats) -> Floats:
    """(N, d): the mean vector of each sample's history in the item table (V, d).

    Live selection has no features before it trains, so its clusters are those of the histories. A
    history without items gets the mean of the table.
    """
    mean = table.mean(0)
    return np.stack([table[list(h)].mean(0) if h else mean for h in histories])
