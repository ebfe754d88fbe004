"""Influence of train samples on validation samples, for the rule influence of live selection.

The influence of a sample is the cosine between its gradient and the mean gradient of the validation
samples. The gradients are those of a linear map of the last hidden state: the head reads
``h' = (I + A) h``, and at A = 0 the loss has the gradient ``g h^T`` by A, where g is its gradient
by h (`head_gradients`). So with ``<a b^T, c d^T> = (a . c)(b . d)`` no matrix (d, d) is needed:

    influence_i = mean_v (g_i . g_v)(h_i . h_v) / (|g_i| |h_i| |mean_v g_v h_v^T|)

A step down the gradient of a sample with a positive influence lowers the mean loss of the
validation samples, to first order (TracIn, arXiv 2002.08484; LESS, arXiv 2402.04333, takes the
cosine). After CROPI (arXiv 2510.26491), which selects again before each stage of a training, by
influences that are estimated from rollouts of another policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minirec.selection.checks import Floats


@dataclass(frozen=True)
class Goal:
    """The validation samples: gradients by the hidden state (M, d), and hidden states (M, d)."""

    gradients: Tensor
    hidden: Tensor

    def size(self) -> Tensor:
        """Length of the mean gradient, a scalar in float64."""
        square = _products(self.gradients, self.hidden, self).mean()
        return square.clamp_min(0).sqrt()


def influences(gradients: Tensor, hidden: Tensor, goal: Goal) -> Tensor:
    """The influence (n,) float64 of n samples, from -1 to 1.

    A sample without a gradient, which the policy has solved, has 0. All have 0 if the mean gradient
    of the validation samples is 0.

    Args:
        gradients: (n, d) of the head loss by the hidden state. hidden: (n, d), both of any floating
            dtype; products are in float64.
    """
    along = _products(gradients, hidden, goal).mean(1)
    size = gradients.double().norm(dim=1) * hidden.double().norm(dim=1) * goal.size()
    return torch.where(size > 0, along / size.where(size > 0, 1.0), 0.0).clamp(-1, 1)


def most_influential(influence: Floats, count: int) -> NDArray[np.int64]:
    """Positions of the `count` highest of (n,), ascending; of equal ones the first are taken."""
    return np.sort(np.argsort(-influence, kind="stable")[:count])


def _products(gradients: Tensor, hidden: Tensor, goal: Goal) -> Tensor:
    """Inner products (n, M) of the gradients by the linear map."""
    of_gradients = gradients.double() @ goal.gradients.double().T
    return of_gradients * (hidden.double() @ goal.hidden.double().T)
