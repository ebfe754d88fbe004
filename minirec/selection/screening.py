"""Cheaper scoring: which samples need no rollouts, and what leaving them out saved and lost.

Method, section 3. Each decision is a function of the sample alone, never of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from minirec.rng import seed_of
from minirec.selection.learnability import lift

COLUMNS = ["ndcg", "screened", "control", "screen_ndcg"]
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
    """Samples whose first completions disagree: largest less smallest NDCG above `spread`.

    Args:
        ndcg: of each sample the NDCG of its completions so far, the greedy one among them.
        spread: in 0..1.
    """
    return [bool(max(seen) - min(seen) > spread) for seen in ndcg]


@dataclass(frozen=True)
class Savings:
    """Rollouts (greedy ones counted) and samples that were spared, and the control's estimate.

    `lost` of the `control` samples would have been rolled out had their rollouts been known. The
    rank correlation is that of screen and mean rollout NDCG over the `both` samples that have the
    two; None below 3 samples or where one of the two is constant.
    """

    samples: int
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
    features: Mapping[str, Sequence], *, most: int, chance: float, band: tuple[float, float]
) -> Savings:
    """What cheaper scoring saved, and what the control says that it lost.

    Args:
        features: `COLUMNS` of N samples: ``ndcg`` of the rollouts (ragged; empty if screened),
            ``screened`` and ``control``, and ``screen_ndcg``, None where there was no screen.
        most: rollouts of each sample in full scoring, the greedy one not counted.
        chance: from `learnability.chance_level`.
        band: lift that counts as learnable, as in `outside`.
    """
    ndcg = features["ndcg"]
    screened, control = (np.asarray(features[name], bool) for name in ("screened", "control"))
    count = np.array([len(values) for values in ndcg])
    mean = np.array([np.mean(values) if len(values) else np.nan for values in ndcg])
    screen = np.array([np.nan if v is None else v for v in features["screen_ndcg"]], np.float64)
    both = ~np.isnan(mean) & ~np.isnan(screen)
    lost = ~outside(mean[control], chance=chance, band=band) if control.any() else np.zeros(0)
    return Savings(
        samples=len(count),
        rollouts=int(count.sum() + (~screened).sum()),
        full=len(count) * (most + 1),
        screened=int(screened.sum()),
        control=int(control.sum()),
        lost=int(lost.sum()),
        both=int(both.sum()),
        correlation=_rank_correlation(screen[both], mean[both]),
    )


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
