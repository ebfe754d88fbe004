"""The self-paced curriculum of live selection: which clusters a step should take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0
from minirec.selection.checks import Floats
from minirec.selection.clusters import cluster_space, clusters
from minirec.selection.pace import (
    Pulls,
    Rows,
    arm_counts,
    draw_arms,
    history_means,
    pace_seed,
)


class LivePace:
    """Draws clusters for live selection, which takes candidates of these first.

    The clusters are those of the histories, by the item vectors of the policy that the training
    starts with, since there are no features.
    """

    def __init__(self, spec: TrainingSpec, histories: Sequence[Sequence[int]]):
        assert spec.selection is not None
        self.settings, self.seed, self.histories = spec.selection, spec.seed, histories
        self.places, self.staleness = spec.training.prompts_per_step, spec.training.staleness
        self.arms: Rows | None = None  # of each row
        self.pulls = Pulls()

    def drawn(self, step: int, table: Tensor | None) -> tuple[Rows, Rows]:
        """The cluster of each row, and of each place of a step; `table` (V, d) holds the item
        vectors. All ranks must call it."""
        s = self.settings
        if self.arms is None:
            assert table is not None
            self.arms = of_rank_0(lambda: self._clusters(table))
        stats = self.pulls.stats(
            arms=s.clusters, before=step - self.staleness, memory=s.pace_memory, pace=s.pace
        )
        seed = pace_seed(self.seed, step)
        return self.arms, draw_arms(stats, places=self.places, noise=s.pace_noise, seed=seed)

    def _clusters(self, table: Tensor) -> Rows:
        points = history_means(self.histories, table.cpu().double().numpy())
        unknown = np.zeros(len(points))
        space = cluster_space(points, unknown, weight=0)
        return clusters(space, count=self.settings.clusters, seed=self.seed)

    def learned(self, step: int, rows: Rows, lifts: Floats, signals: Floats) -> None:
        """Note the lifts and signals (P,) of the rows (P,) of a step."""
        assert self.arms is not None
        self.pulls.add(step, rows, self.arms[rows], lifts, signals)

    def log(self, rows: Rows) -> dict[str, int]:
        """The clusters of the rows (P,) that a step took, for the log."""
        assert self.arms is not None
        return arm_counts(self.arms[rows], arms_in_all=self.settings.clusters)

    def state(self) -> dict[str, NDArray]:
        """For a checkpoint."""
        assert self.arms is not None
        return {"arms": self.arms, **self.pulls.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.arms = state["arms"]
        self.pulls.restore(state)
