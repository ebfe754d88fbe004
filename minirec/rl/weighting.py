"""Weights of groups by how hard they are (after IR-DRO, arXiv 2402.14270)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.config.training import TrainingConfig


@dataclass(frozen=True)
class Weights:
    """weight (P,) float32 of each group, and exp(difficulty / temperature) (P,) float64."""

    weight: Tensor
    exponential: Tensor

    @property
    def sums(self) -> dict[str, float]:
        """Sums over groups for the log: the first is the normaliser of the next step.

        P (mean weight)^2 / (mean squared weight) is the effective number of prompts of a step.
        """
        return {
            "weighting": float(self.exponential.sum()),
            "group_weight": float(self.weight.sum()),
            "squared_group_weight": float(self.weight.square().sum()),
        }


def group_weights(
    mean_ndcg: Tensor, *, chance: float, training: TrainingConfig, normaliser: float | None
) -> Weights:
    """Weights of P groups, ``min(exp(l / lambda) / Z, most)``.

    The closed form of max_q sum q l - lambda KL(q || uniform). The public code takes the loss of a
    sequence as l and normalises within the batch of a device. Here l is the `difficulty`, since the
    value of a GRPO loss means nothing, and Z is the mean of exp(l / lambda) over the global batch
    of the step before, so that a step does not depend on how it is divided.

    Args:
        mean_ndcg: (P,) mean NDCG of the rollouts of each group, without gradient.
        chance: NDCG of a random ranking.
        training: has lambda, `weighting_temperature`, and `weighting_most`.
        normaliser: Z; None in the first step, in which all weights are 1.
    """
    hard = difficulty(mean_ndcg.double(), chance=chance, kind=training.weighting)
    exponential = torch.exp(hard / training.weighting_temperature)
    if normaliser is None:
        weight = torch.ones_like(mean_ndcg)
    else:
        weight = (exponential / normaliser).clamp(max=training.weighting_most).to(mean_ndcg)
    return Weights(weight, exponential)


def difficulty(mean_ndcg: Tensor, *, chance: float, kind: str) -> Tensor:
    """How hard groups are (P,), from their mean NDCG (P,) as a lift r above chance.

    hard: 1 - r. middle: 4 r (1 - r) with r held in 0..1, which is largest at r = 1/2; it is
    1 - h^2 for h = 2 r - 1, which the public code defines and does not use.
    """
    lift = (mean_ndcg - chance) / (1 - chance)
    if kind == "hard":
        return 1 - lift
    held = lift.clamp(0, 1)
    return 4 * held * (1 - held)
