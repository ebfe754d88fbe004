"""The ledger of a comparison: its variants by quality and cost, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minirec.evaluation.outcomes import Outcome, Row
from minirec.evaluation.paired import Bootstrap, Difference, Standing, differences, standing

VALID = "valid_ndcg@10"


@dataclass(frozen=True)
class Entry:
    """A variant over its seeds: test NDCG@10, and its differences by reference.

    A difference is None if the reference is missing or is this variant, or if a seed is missing.
    """

    outcome: Outcome
    standing: Standing
    differences: dict[str, Difference | None]

    @property
    def variant(self) -> str:
        return self.outcome.method

    @property
    def reached(self) -> tuple[float | None, int]:
        """Median cost in forward-equivalent tokens until the goal was reached, and by how many
        seeds.
        """
        found = [row["reached_tokens"] for row in self.outcome.rows]
        there = [tokens for tokens in found if tokens is not None]
        return (float(np.median(there)) if there else None), len(there)


@dataclass(frozen=True)
class Answer:
    """What one group of variants adds to another: the best of each, chosen on valid, on test."""

    subject: str
    best: str
    other: str
    difference: Difference

    @property
    def sentence(self) -> str:
        d = self.difference
        numbers = f"{d.mean:+.4f} NDCG@10, 95% interval {d.low:+.4f} to {d.high:+.4f}"
        if d.low > 0:
            verdict = "pays"
        elif d.high < 0:
            verdict = "does not pay"
        else:
            verdict = "has no significant effect"
        return f"{self.subject} {verdict}: {self.best} against {self.other} {numbers}."


@dataclass(frozen=True)
class Ledger:
    """The variants of one table, best first, and those that could not be trained, with the cause.

    table: ``steps`` or ``tokens``.
    """

    table: str
    references: list[str]
    entries: list[Entry]
    untrained: dict[str, str]
    answers: list[Answer]

    @property
    def equal(self) -> str:
        """What is equal in the table."""
        return "total cost" if self.table == "tokens" else "optimizer steps"


def ledger(
    outcomes: Sequence[Outcome],
    bootstrap: Bootstrap,
    *,
    table: str,
    references: Sequence[str],
    chosen: Mapping[str, bool],
    untrained: Mapping[str, str],
) -> Ledger:
    """The ledger of one table.

    Args:
        outcomes: test NDCG@10; those of other tables and of methods are left out.
        references: variants that the others are tested against, with Holm's correction over all
            variants.
        chosen: by variant, whether the samples of its training are chosen by their features.
        untrained: why a variant was not trained.
    """
    shown = [o for o in outcomes if o.variant and o.rows[0]["table"] == table]
    seeds: set[int] = set().union(*(o.seeds for o in shown))
    whole = {o.method: o for o in shown if o.seeds == seeds}
    there = [name for name in references if name in {o.method for o in shown}]
    against = {name: _against(name, whole, bootstrap) for name in there}
    entries = [
        Entry(o, standing(o.ndcg, bootstrap), {n: against[n].get(o.method) for n in there})
        for o in shown
    ]
    entries.sort(key=lambda entry: -entry.standing.mean)
    return Ledger(table, there, entries, dict(untrained), _answers(whole, chosen, bootstrap))


def _against(name: str, whole: Mapping[str, Outcome], bootstrap: Bootstrap) -> dict:
    """Differences of complete variants from a complete reference, by variant."""
    if name not in whole or len(whole) < 2:
        return {}
    others = {other: one.ndcg for other, one in whole.items() if other != name}
    return differences(others, whole[name].ndcg, bootstrap)


def _answers(
    whole: Mapping[str, Outcome], chosen: Mapping[str, bool], bootstrap: Bootstrap
) -> list[Answer]:
    """Whether selection and reinforcement pay, where there are variants on both sides.

    Selection is judged among the variants that learn from rollouts.
    """
    reinforced = {name: o for name, o in whole.items() if _rolls_out(o)}
    sides: list[tuple[str, Mapping[str, Outcome], Callable[[str], bool]]] = [
        ("Selection", reinforced, lambda name: chosen[name]),
        ("Reinforcement", whole, lambda name: name in reinforced),
    ]
    found = []
    for subject, among, inside in sides:
        best = _best({name: o for name, o in among.items() if inside(name)})
        other = _best({name: o for name, o in among.items() if not inside(name)})
        if best and other:
            one = differences({best: among[best].ndcg}, among[other].ndcg, bootstrap)[best]
            found.append(Answer(subject, best, other, one))
    return found


def _rolls_out(outcome: Outcome) -> bool:
    return any(row["own_rollouts"] for row in outcome.rows)


def _best(outcomes: Mapping[str, Outcome]) -> str | None:
    """The best variant by NDCG@10 on valid, so that test chooses nothing."""
    there = {name: o.mean(VALID) for name, o in outcomes.items()}
    quality = {name: value for name, value in there.items() if value is not None}
    return max(quality, key=lambda name: quality[name]) if quality else None


def goal(rows: Sequence[Row], *, whole: Callable[[Row], bool]) -> float | None:
    """The best validation of trainings on all data: the highest mean over the seeds of a setting.

    `whole` says whether a row is such a training. None if none was validated.
    """
    by_setting: dict[str, list[float]] = {}
    for row in rows:
        if whole(row) and row["best_valid_ndcg@10"] is not None:
            by_setting.setdefault(row["setting"], []).append(row["best_valid_ndcg@10"])
    return max((float(np.mean(values)) for values in by_setting.values()), default=None)
