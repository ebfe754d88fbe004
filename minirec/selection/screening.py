"""Cheaper scoring: which samples need no rollouts, and what skipping them saved and lost.

Method, section 3. Each decision depends on the sample alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirec.rng import seed_of
from minirec.selection.learnability import lift
from minirec.selection.value import rank_correlation

COLUMNS = ["ndcg", "screened", "control", "screen_ndcg", "rollout_tokens"]
"""Feature columns that `savings` reads."""


def outside(
    screen_ndcg: ArrayLike, *, chance: float, band: tuple[float, float]
) -> NDArray[np.bool_]:
    """Samples (N,) bool that need no rollouts, because their lift is outside `band`.

    `screen_ndcg` (N,) is the NDCG of the forced answer, `chance` comes from
    `learnability.chance_level`, and `band` has the lowest and the highest lift that gets rollouts;
    no lift exceeds 1.

    Raises:
        ValueError: `screen_ndcg` is empty or not finite.
    """
    gain = lift(screen_ndcg, chance=chance)
    return (gain < band[0]) | (gain > band[1])


def drawn(sample_id: Sequence[int], *, seed: int, share: float) -> NDArray[np.bool_]:
    """(N,) bool, True for a random `share` of the samples, fixed by the run's seed and the id."""
    limit = share * 2**31
    return np.array([seed_of(seed, "control", number) < limit for number in sample_id], bool)


def in_doubt(ndcg: Sequence[Sequence[float]], *, spread: float) -> list[bool]:
    """Samples whose completions so far disagree: largest minus smallest NDCG above `spread`."""
    return [bool(max(seen) - min(seen) > spread) for seen in ndcg]


@dataclass(frozen=True)
class Savings:
    """Rollouts (including greedy ones) and samples saved, and the estimate of the loss.

    `full` is the number of rollouts without screening, `tokens` the number generated in all
    rollouts. `lost` of the `control` samples were worth rollouts. `correlation` is the rank
    correlation of screen and mean rollout NDCG over the `both` samples that have both; None below 3
    samples or if one of them is constant.
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
        """A sentence for the user."""
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
    """What cheaper scoring saved, and what it lost by the control samples.

    Args:
        parts: `COLUMNS` of parts of the samples: ``ndcg`` of the rollouts (ragged, empty if
            screened), ``screened``, ``control``, ``screen_ndcg`` (None without a screen),
            ``rollout_tokens``. Only one part is in memory at a time.
        most: rollouts per sample in full scoring, without the greedy one.
        chance: from `learnability.chance_level`.
        band: learnable lifts, as in `outside`.
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
        correlation=rank_correlation(*both) if both.shape[1] > 2 else None,
    )
