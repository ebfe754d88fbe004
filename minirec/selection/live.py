"""Live selection: which samples of a shuffled stream a training step takes (method, section 12).

The policy ranks the target of a sample right after the prompt, one forward pass without rollouts.
The lift of that rank says whether the sample is hopeless, learnable or solved for the policy of the
moment. A memory keeps the lifts, so that few samples need a pass of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minirec.config.live import LiveConfig
from minirec.config.selection import SelectionConfig
from minirec.rng import seed_of
from minirec.selection.checks import Floats
from minirec.selection.diversity import maxmin
from minirec.selection.learnability import gaussian
from minirec.selection.pace import by_arms
from minirec.selection.value import alignment, combine

Rows = NDArray[np.int64]
FORCED, ROLLOUTS = 0, 1
"""The two kinds of lifts: of the forced answer, and the mean over the rollouts of a sample."""
IN_BAND, UNKNOWN, NEAREST, VALUE = "in band", "unknown", "nearest", "value"
"""Why a step takes a sample: all known lifts are in the band; no lift is known; too few samples
are in the band; or its value is among the highest."""
ALIVE, RETRIED = "alive", "retried"
"""Why the rule skip takes a sample: its rollouts differed, or it is tried again by chance. Of an
`UNKNOWN` one there are no rollouts yet."""
INFLUENCE = "influence"
"""Why the rule influence takes a sample: its influence is among the highest of its pool."""
STRIKES = 2
"""Lifts below the band in a row after which a sample is on hold."""


class Stream:
    """The rows 0..N-1 in a new random order in each pass; position p belongs to pass p // N."""

    def __init__(self, rows: int, *, seed: int):
        self.rows, self.seed = rows, seed
        self._held: tuple[int, Rows] = (-1, np.empty(0, np.int64))

    def at(self, position: int) -> tuple[int, int]:
        """The pass and the row of a position."""
        number, place = divmod(position, self.rows)
        if self._held[0] != number:
            draw = np.random.default_rng(seed_of(self.seed, "stream", number))
            self._held = number, draw.permutation(self.rows)
        return number, int(self._held[1][place])


class Memory:
    """What is known about the N samples. All arrays have one entry for each sample.

    lift: (2, N) float64, the newest lift of the forced answer, and the decayed mean over rollouts;
        NaN if unknown. The forced answer has no sampling noise, so it needs no mean.
    measured: (N,) int64, the pass of the stream in which the forced answer was last measured.
    low: (2, N) int64, lifts below the band in a row.
    back: (N,) int64, first pass in which the sample is not on hold.
    holds: (N,) int64, how often it has been on hold in a row.
    dead: (N,) int64, for the rule skip: how often in a row its rollouts all earned the same; -1
        before the first rollouts.
    """

    def __init__(self, samples: int, settings: LiveConfig):
        self.low_end, self.high_end = settings.band
        self.decay = settings.decay
        self.lift = np.full((2, samples), np.nan)
        self.measured = np.full(samples, -1, np.int64)
        self.low = np.zeros((2, samples), np.int64)
        self.back = np.zeros(samples, np.int64)
        self.holds = np.zeros(samples, np.int64)
        self.dead = np.full(samples, -1, np.int64)

    def see(self, kind: int, rows: Rows, lifts: Floats, *, at_pass: int) -> None:
        """Note new lifts of one kind, (n,) of distinct rows (n,).

        A sample with `STRIKES` lifts of a kind below the band in a row is on hold for 1 pass. If it
        comes back and is below again, it is on hold for 2, 4, ... passes.
        """
        before = self.lift[kind, rows]
        weight = self.decay if kind == ROLLOUTS else 0.0
        mixed = weight * before + (1 - weight) * lifts
        self.lift[kind, rows] = np.where(np.isnan(before), lifts, mixed)
        if kind == FORCED:
            self.measured[rows] = at_pass
        below = lifts < self.low_end
        self.low[kind, rows] = np.where(below, self.low[kind, rows] + 1, 0)
        self.holds[rows[~below]] = 0
        held = rows[below & (self.low[kind, rows] >= STRIKES)]
        held = held[self.back[held] <= at_pass]  # the other kind may have put it on hold already
        self.back[held] = at_pass + 1 + 2 ** np.minimum(self.holds[held], 30)
        self.holds[held] += 1

    def distance(self, rows: Rows) -> Floats:
        """How far the known lifts of samples are outside the band; 0 inside, NaN if unknown."""
        lift = self.lift[:, rows]
        outside = np.maximum(np.maximum(self.low_end - lift, lift - self.high_end), 0)
        return np.fmax(outside[FORCED], outside[ROLLOUTS])

    def state(self) -> dict[str, NDArray]:
        """The arrays, for a checkpoint."""
        names = ("lift", "measured", "low", "back", "holds", "dead")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Candidates:
    """The C samples that a step considers, in the order of the stream.

    positions, rows: (C,) int64. at_pass: the pass of the first one.
    """

    positions: Rows
    rows: Rows
    at_pass: int


@dataclass(frozen=True)
class Choice:
    """The samples of a step: rows (P,) int64, and why each was taken."""

    rows: Rows
    reasons: list[str]


class LiveSelection:
    """Chooses the samples of one step after another. Its state is a cursor and a memory."""

    def __init__(self, ids: Sequence[int], settings: LiveConfig, *, seed: int, prompts: int):
        """Args:
            ids: sample_ids of the corpus; rows are their positions.
            seed: of the order of the stream.
            prompts: P, samples of a step.

        Raises:
            ValueError: there are fewer samples than P.
        """
        if len(ids) < prompts:
            raise ValueError(f"live selection chooses {prompts} of only {len(ids)} samples")
        self.ids = np.asarray(ids, np.int64)
        self.settings, self.prompts = settings, prompts
        self.stream = Stream(len(ids), seed=seed)
        self.memory = Memory(len(ids), settings)
        self.cursor = 0

    def candidates(self, *, steps: int = 1) -> Candidates:
        """The next distinct samples of the stream that are not on hold, for one step or several.

        There are at most `candidates` for each prompt. If nearly all samples are on hold, those
        that come back first fill up a step.
        """
        most = min(steps * self.settings.candidates * self.prompts, len(self.ids))
        found: list[tuple[int, int]] = []
        held: list[tuple[int, int, int]] = []
        seen: set[int] = set()
        first, _ = self.stream.at(self.cursor)
        for position in range(self.cursor, self.cursor + 2 * len(self.ids)):
            if len(found) == most or len(seen) == len(self.ids):
                break
            number, row = self.stream.at(position)
            if row in seen:
                continue
            seen.add(row)
            if (rank := self._passed_over(number, row)) is not None:
                held.append((rank, position, row))
            else:
                found.append((position, row))
        missing = self.prompts - len(found)
        if missing > 0:
            found = sorted(found + [(position, row) for _, position, row in sorted(held)[:missing]])
        positions, rows = np.array(found, np.int64).T
        return Candidates(positions, rows, first)

    def _passed_over(self, at_pass: int, row: int) -> int | None:
        """None for a row that can be a candidate; else a number, lower for those that fill up."""
        if self.settings.rule == "influence":
            return None
        if self.settings.rule != "skip":
            back = int(self.memory.back[row])
            return back if back > at_pass else None
        dead = max(0, int(self.memory.dead[row]))
        draw = seed_of(self.stream.seed, "skip", at_pass, row) / 2**31
        return dead if draw >= self.settings.explore**dead else None

    def see_spread(self, rows: Rows, spreads: Floats, *, floor: float) -> None:
        """Note the standard deviations (n,) of the rewards of distinct rows (n,).

        Below `floor` all rollouts of a sample earned the same, and GRPO learns nothing from it.
        """
        before = np.maximum(self.memory.dead[rows], 0)
        self.memory.dead[rows] = np.where(spreads < floor, before + 1, 0)

    def to_measure(self, candidates: Candidates) -> Rows:
        """The candidates whose forced answer should be measured, the most urgent first.

        Unknown samples come first, then those whose measurement is from the oldest pass. What was
        measured in this pass is fresh. The rule skip measures none.
        """
        if self.settings.rule == "skip":
            return candidates.rows[:0]
        measured = self.memory.measured[candidates.rows]
        known = ~np.isnan(self.memory.lift[:, candidates.rows]).all(0)
        age = np.where(known, measured, -2)
        order = np.argsort(age, kind="stable")
        return candidates.rows[order][age[order] < candidates.at_pass]

    def see(self, kind: int, rows: Rows, lifts: Floats, *, at_pass: int) -> None:
        """Note lifts (n,) of the kind `FORCED` or `ROLLOUTS` of distinct rows (n,).

        `at_pass` is that of the candidates among which the rows were.
        """
        self.memory.see(kind, rows, lifts, at_pass=at_pass)

    def choose(
        self,
        candidates: Candidates,
        *,
        first: Rows | None = None,
        drawn: tuple[Rows, Rows] | None = None,
    ) -> Choice:
        """The P samples of the next step; moves the cursor behind the last one.

        Args:
            first: rows that are taken for their value; the others are taken as by the rule band:
                those in the band in the order of the stream, then unknown ones, then those nearest
                to the band, ties by sample_id.
            drawn: clusters of all rows (N,), and of the places (P,) of the step. Among those in
                the band, and among unknown ones, samples of these clusters come first.
        """
        if self.settings.rule == "skip":
            return self._choose_unskipped(candidates, drawn)
        chosen = np.empty(0, np.int64) if first is None else first
        rest = ~np.isin(candidates.rows, chosen)
        rows, distance = candidates.rows[rest], self.memory.distance(candidates.rows[rest])
        inside = rows[distance == 0]
        unknown = rows[np.isnan(distance)]
        if drawn is not None:
            arms, places = drawn
            inside, unknown = (by_arms(part, arms[part], places) for part in (inside, unknown))
        outside = distance > 0
        nearest = rows[outside][np.lexsort((self.ids[rows[outside]], distance[outside]))]
        parts = {VALUE: chosen, IN_BAND: inside, UNKNOWN: unknown, NEAREST: nearest}
        pairs = [(int(row), why) for why, part in parts.items() for row in part][: self.prompts]
        taken = np.array([row for row, _ in pairs], np.int64)
        reasons = [why for _, why in pairs]
        only_band = len(chosen) == 0 and set(reasons) == {IN_BAND}
        last = candidates.positions[np.isin(candidates.rows, taken)] if only_band else None
        self.cursor = int((candidates.positions if last is None else last).max()) + 1
        return Choice(taken, reasons)

    def _choose_unskipped(self, candidates: Candidates, drawn: tuple[Rows, Rows] | None) -> Choice:
        """The first P candidates, of the drawn clusters if there are any."""
        rows = candidates.rows
        if drawn is not None:
            rows = by_arms(rows, drawn[0][rows], drawn[1])
        taken = rows[: self.prompts]
        dead = self.memory.dead[taken].tolist()
        reasons = [UNKNOWN if n < 0 else RETRIED if n else ALIVE for n in dead]
        self.cursor = int(candidates.positions[np.isin(candidates.rows, taken)].max()) + 1
        return Choice(taken, reasons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the rule for the log."""
        if self.settings.rule == "skip":
            return (ALIVE, UNKNOWN, RETRIED)
        if self.settings.rule == "influence":
            return (INFLUENCE,)
        return (IN_BAND, UNKNOWN, NEAREST, VALUE)

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"cursor": np.array(self.cursor), **self.memory.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.cursor = int(state["cursor"])
        for name in self.memory.state():
            setattr(self.memory, name, np.array(state[name]))


class ValueRule:
    """The criteria of the paper among the samples that a step has measured.

    Representativeness is the cosine with a running mean of the directions, since a step sees only a
    few samples. mean: (d,) float64, or 0 before the first step.
    """

    def __init__(self, settings: LiveConfig, selection: SelectionConfig):
        self.settings, self.selection = settings, selection
        self.mean = np.zeros(1)

    def pick(
        self, lifts: Floats, directions: Floats, embeddings: Floats, *, count: int
    ) -> NDArray[np.int64]:
        """At most `count` of n samples, the best first.

        Samples without a direction, which the policy has solved, are not picked.

        Args:
            lifts: (n,). directions: (n, d) Hessian-vector products. embeddings: (n, d).
        """
        able = np.flatnonzero(np.linalg.norm(directions, axis=1) > 0)
        if not len(able) or not count:
            return np.empty(0, np.int64)
        s, decay = self.selection, self.settings.decay
        self.mean = decay * self.mean + (1 - decay) * directions.mean(0)
        learnable = gaussian(lifts[able], mu=s.mu, sigma=s.sigma)
        representative = alignment(directions[able], mean=self.mean)
        value = combine(learnable, representative, alpha=s.alpha, fusion=s.fusion)
        return able[maxmin(embeddings[able], scores=value, budget=min(count, len(able))).indices]
