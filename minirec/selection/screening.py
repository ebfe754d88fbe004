"""Cheaper scoring: which samples need no rollouts, and what leaving them out saved and lost.

Method, section 3. Each decision is a function of the sample alone, never of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from minirec.rng import seed_of
from minirec.selection.learnability import lift

COLUMNS = ["ndcg", "screened", "control", "screen_ndcg", "rollout_tokens"]
"""Columns of the features that `savings` reads."""


def outside(
    screen_ndcg: ArrayLike, *, chance: float, band: tuple[float, float]
) -> NDArray[np.bool_]:
    """Samples whose screen is too far from what can be learned to be worth a rollout.

    Args:
        screen_ndcg: (N,) NDCG of the forced answer.
        chance: from `learnability.chance_level`.
        band: lowest and highest lift that is rolled out. No lift exceeds 1.

    Returns:
        (N,) bool.

    Raises:
        ValueError: `screen_ndcg` is empty or not finite.
    """
    gain = lift(screen_ndcg, chance=chance)
    return (gain < band[0]) | (gain > band[1])


def drawn(sample_id: Sequence[int], *, seed: int, share: float) -> NDArray[np.bool_]:
    """(N,) bool, True for a random `share` of all samples, fixed by the run's seed and the id."""
    limit = share * 2**31
    return np.array([seed_of(seed, "control", number) < limit for number in sample_id], bool)


def in_doubt(ndcg: Sequence[Sequence[float]], *, spread: float) -> list[bool]:
    """Samples whose first completions disagree: largest minus smallest NDCG above `spread`.

    Args:
        ndcg: of each sample the NDCG of its completions so far, the greedy one among them.
        spread: in 0..1.
    """
    return [bool(max(seen) - min(seen) > spread) for seen in ndcg]


@dataclass(frozen=True)
class Savings:
    """Rollouts (with greedy ones) and samples that were saved, and the estimate from the control.

    `tokens` were generated in all rollouts. `lost` of the `control` samples turned out to be worth
    a rollout. The rank correlation is that of screen and mean rollout NDCG over the `both` samples
    that have the two; None below 3 samples or where one of the two is constant.
    """

    samples: int
    tokens: int
    rollouts: int
    full: int
    screened: int
    control: int
    lost: int
    both: int
    correlation: float | None

    def sentence(self) -> str:
        """What was saved and lost, in words."""
        share = self.rollouts / self.full
        text = f"{self.rollouts:,} rollouts instead of {self.full:,} ({share:.0%})"
        if self.screened:
            text += f"; {self.screened:,} of {self.samples:,} samples screened"
        if self.control:
            text += f"; of {self.control:,} control samples {self.lost:,} proved learnable"
        if self.correlation is not None:
            text += f"; rank correlation of screen and rollouts {self.correlation:.2f}"
        return text


def savings(
    parts: Iterable[Mapping[str, Sequence]],
    *,
    most: int,
    chance: float,
    band: tuple[float, float],
) -> Savings:
    """What cheaper scoring saved, and what the control says that it lost.

    Args:
        parts: `COLUMNS` of some samples each: ``ndcg`` of the rollouts (ragged; empty if
            screened), ``screened`` and ``control``, ``screen_ndcg``, None where there was no
            screen, and ``rollout_tokens``. One part is held at a time.
        most: rollouts of each sample in full scoring, the greedy one not counted.
        chance: from `learnability.chance_level`.
        band: lift that counts as learnable, as in `outside`.
    """
    names = ("samples", "tokens", "rollouts", "screened", "control", "lost")
    sums = dict.fromkeys(names, 0)
    pairs = [np.empty((2, 0))]
    for part in parts:
        ndcg = part["ndcg"]
        screened, control = (np.asarray(part[name], bool) for name in ("screened", "control"))
        count = np.array([len(values) for values in ndcg])
        mean = np.array([np.mean(values) if len(values) else np.nan for values in ndcg])
        screen = np.array([np.nan if v is None else v for v in part["screen_ndcg"]], np.float64)
        pairs.append(np.stack([screen, mean])[:, ~np.isnan(mean) & ~np.isnan(screen)])
        sums["samples"] += len(count)
        sums["tokens"] += int(np.sum(part["rollout_tokens"]))
        sums["rollouts"] += int(count.sum() + (~screened).sum())
        sums["screened"] += int(screened.sum())
        sums["control"] += int(control.sum())
        if control.any():
            sums["lost"] += int((~outside(mean[control], chance=chance, band=band)).sum())
    both = np.concatenate(pairs, axis=1)
    return Savings(
        **sums,
        full=sums["samples"] * (most + 1),
        both=both.shape[1],
        correlation=_rank_correlation(both[0], both[1]),
    )


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
