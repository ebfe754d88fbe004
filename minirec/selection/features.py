"""The features of the samples to select from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minirec.errors import FeatureError
from minirec.selection.checks import Floats, first


@dataclass(frozen=True)
class Features:
    """Features of N samples in ascending sample_id; None for a feature that is not known.

    sample_id: (N,) int64, ascending.
    mean_reward: (N,) float64, mean over the rollouts, or the screen's reward without rollouts.
    rollouts: (N,) int64, number of rollouts; 0 for a sample with a screen only.
    hits: (N,) int64, rollouts above chance.
    screened: (N,) bool, True for a screened sample without rollouts.
    mean_ndcg: (N,) float64, mean NDCG over the rollouts, or the screen's.
    embedding: (N, d) float, non-zero hidden states of the greedy rollouts, not normalised.
    hvp: (N, d) float, Hessian-vector products of the head loss.
    gradient: (N, d) float, head gradients of the greedy rollouts, or other gradients of a table.
    lora_gradient: (N, d') float, projected LoRA gradients.
    rollout_gradient: (N, d) float, head gradients of the rollouts, weighted by their advantages.
    el2n: (N,) float64, length of the error of the softmax over the catalogue.
    validation_gradient: (d',) float, mean LoRA gradient of the validation samples.
    surrogate_loss: (N,) float64, loss of a cheap recommender, see `minirec.selection.surrogate`.
    """

    sample_id: NDArray[np.int64]
    mean_reward: Floats
    rollouts: NDArray[np.int64]
    hits: NDArray[np.int64]
    screened: NDArray[np.bool_]
    mean_ndcg: Floats | None = None
    embedding: NDArray[np.floating] | None = None
    hvp: NDArray[np.floating] | None = None
    gradient: NDArray[np.floating] | None = None
    lora_gradient: NDArray[np.floating] | None = None
    rollout_gradient: NDArray[np.floating] | None = None
    el2n: Floats | None = None
    validation_gradient: NDArray[np.floating] | None = None
    surrogate_loss: Floats | None = None

    def __post_init__(self) -> None:
        rows = len(self.sample_id)
        for name, values in vars(self).items():
            if name != "validation_gradient" and values is not None and len(values) != rows:
                raise ValueError(f"{name} has {len(values)} rows; expected {rows}")
        if (row := first(np.diff(self.sample_id) <= 0)) is not None:
            before, after = self.sample_id[row : row + 2]
            raise ValueError(f"sample_id row {row + 1} is {after}; expected more than {before}")

    def __len__(self) -> int:
        return len(self.sample_id)

    def need(self, name: str, *, by: str) -> NDArray:
        """The feature `name`, which the method `by` needs.

        Raises:
            FeatureError: the feature is not known.
        """
        values = getattr(self, name)
        if values is None:
            where = "; only an .npz file has it" if name == "validation_gradient" else ""
            raise FeatureError(f"{by} needs {name}, which the features do not hold{where}")
        return values
