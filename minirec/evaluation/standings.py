"""The places of the methods of a comparison, from its trials (method, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirec.evaluation.front import Codes
from minirec.evaluation.paired import Difference, Standing, differences, standing


@dataclass(frozen=True)
class Curve:
    """M validations of one training, with all that was spent before each, and the whole cost.

    ndcg: (M,) NDCG@10. steps, samples: (M,) optimizer steps and distinct samples before it.
    rollouts, seconds: (M,) charged and own. own_*: selection and training to their end.
    charged_*: of proxy, scoring and gradients, as far as the method needs them.
    """

    ndcg: list[float]
    steps: list[int]
    samples: list[int]
    rollouts: list[int]
    seconds: list[float]
    own_rollouts: int
    own_seconds: float
    charged_rollouts: int
    charged_seconds: float


@dataclass(frozen=True)
class Reached:
    """What had been spent when a validation first reached a quality; units as in `Curve`."""

    step: int
    samples: int
    rollouts: int
    seconds: float


def reached(curve: Curve, *, goal: float) -> Reached | None:
    """The first validation with NDCG@10 of at least `goal`; None if there is none."""
    there = np.flatnonzero(np.asarray(curve.ndcg) >= goal)
    if not len(there):
        return None
    i = int(there[0])
    return Reached(curve.steps[i], curve.samples[i], curve.rollouts[i], curve.seconds[i])


@dataclass(frozen=True)
class Trained:
    """A finished trial: its row of the table, (N,) test NDCG@10, and its validations."""

    row: dict[str, Any]
    ndcg: np.ndarray
    curve: Curve


@dataclass(frozen=True)
class Place:
    """A method at a budget, over its seeds.

    differences: by reference, None where the reference is missing or is the method itself.
    reached: seeds that reached the goal; share_rollouts, share_seconds: medians over them of the
    cost until then, as a share of the whole cost of full data; None: no seed did.
    dead_groups: share of training groups without signal. gain_kept, gain_dropped: NDCG@10 of
    trained minus base policy on samples of train that were selected, and on the others.
    """

    method: str
    samples: int
    seeds: int
    standing: Standing
    valid: float
    differences: dict[str, Difference | None]
    reached: int
    reached_samples: float | None
    share_rollouts: float | None
    share_seconds: float | None
    rollouts: float
    seconds: float
    dead_groups: float | None
    gain_kept: float | None
    gain_dropped: float | None
    curves: list[Curve]


@dataclass(frozen=True)
class Race:
    """The places of one table, by budget and then by quality; full data comes last."""

    table: str
    references: list[str]
    places: list[Place]


def race(
    trained: Sequence[Trained],
    *,
    table: str,
    references: Sequence[str],
    users: Codes,
    resamples: int,
    seed: int,
) -> Race:
    """All methods at all budgets of one table.

    Differences are tested against each reference that is there, at the same budget (full data has
    none), and corrected by Holm over all methods and budgets of the table. `users` (N,) are the
    codes of the samples' users, which are resampled.
    """
    groups: dict[tuple[int, str], list[Trained]] = {}
    for one in trained:
        if one.row["table"] in (table, ""):
            groups.setdefault((one.row["samples"], one.row["method"]), []).append(one)
    ndcg = {
        key: np.stack([one.ndcg for one in sorted(group, key=lambda o: o.row["seed"])])
        for key, group in groups.items()
    }
    full = next((key for key in groups if key[1] == "full"), None)
    names = {method for _, method in groups}
    references = [name for name in references if name in names]
    seeds = {key: {one.row["seed"] for one in group} for key, group in groups.items()}
    every = set().union(*seeds.values())
    whole = {key: values for key, values in ndcg.items() if seeds[key] == every}
    against = {
        name: _against(name, whole, full, users=users, resamples=resamples, seed=seed)
        for name in references
    }
    places = [
        _place(
            key,
            groups[key],
            ndcg[key],
            {name: against[name].get(key) for name in references},
            groups[full] if full else [],
            users=users,
            resamples=resamples,
            seed=seed,
        )
        for key in groups
    ]
    places.sort(key=lambda p: (p.method == "full", p.samples, -p.standing.mean))
    return Race(table, references, places)


def _against(
    name: str,
    ndcg: dict[tuple[int, str], np.ndarray],
    full: tuple[int, str] | None,
    *,
    users: Codes,
    resamples: int,
    seed: int,
) -> dict[tuple[int, str], Difference]:
    """Differences from a reference, by samples and method; Holm's correction is over all.

    `ndcg` leaves out where a seed has failed: what is left would not be paired.
    """
    shifted: dict[tuple[int, str], np.ndarray] = {}
    for key, values in ndcg.items():
        reference = full if name == "full" else (key[0], name)
        if reference is not None and reference != key and reference in ndcg:
            shifted[key] = values - ndcg[reference]
    if not shifted:
        return {}
    zero = np.zeros_like(next(iter(shifted.values())))
    return differences(shifted, zero, users=users, resamples=resamples, seed=seed)


def _place(
    key: tuple[int, str],
    group: list[Trained],
    ndcg: np.ndarray,
    versus: dict[str, Difference | None],
    full: list[Trained],
    *,
    users: Codes,
    resamples: int,
    seed: int,
) -> Place:
    rows = [one.row for one in group]
    there = [row for row in rows if row["reached_step"] is not None]

    def share(what: str) -> float | None:
        whole = float(np.mean([one.row[what] for one in full])) if full else 0.0
        if not there or not whole:
            return None
        return float(np.median([row[f"reached_{what}"] for row in there])) / whole

    return Place(
        method=key[1],
        samples=key[0],
        seeds=len(group),
        standing=standing(ndcg, users=users, resamples=resamples, seed=seed),
        valid=float(np.mean([row["valid_ndcg@10"] for row in rows])),
        differences=versus,
        reached=len(there),
        reached_samples=float(np.median([r["reached_samples"] for r in there])) if there else None,
        share_rollouts=share("rollouts"),
        share_seconds=share("seconds"),
        rollouts=float(np.mean([row["rollouts"] for row in rows])),
        seconds=float(np.mean([row["seconds"] for row in rows])),
        dead_groups=_mean(row["dead_groups"] for row in rows),
        gain_kept=_mean(row["gain_kept"] for row in rows),
        gain_dropped=_mean(row["gain_dropped"] for row in rows),
        curves=[one.curve for one in group],
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
