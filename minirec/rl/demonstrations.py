"""What an expert shows to a training (`minirec.rl.imitation`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Demonstration:
    """The items of an expert for one sample, and their probabilities, which sum to 1.

    advantage: NDCG of the target in the expert's ranking, minus that of a random ranking. It says
    how far the expert can be trusted here.
    """

    items: list[int]
    probability: list[float]
    advantage: float


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of a step, by sample_id; a sample may have none.

    share: weight of the loss in this step. norm: weights are divided by it, the mean weight of the
    step before. So neither workers nor micro-batches change the loss.
    """

    by_sample: Mapping[int, Demonstration]
    share: float
    norm: float = 1.0

    @property
    def items(self) -> set[int]:
        """All items that are shown."""
        return {item for one in self.by_sample.values() for item in one.items}
