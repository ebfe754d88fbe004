"""The self-paced order of a static selection: a bandit draws the cluster of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.training.order import Batch, FixedOrder, Order, all_results
from actors.training.spec import TrainingSpec
from minirec.config.selection import SelectionConfig
from minirec.corpus.table import Sample
from minirec.selection.learnability import chance_level, lift
from minirec.selection.pace import Pulls, Rows, arm_counts, draw_arms, pace_seed
from minirec.store.files import atomic
from minirec.store.tables import write_table

STATE = "pace.npz"
PULLS = "pace.parquet"


def static_order(spec: TrainingSpec, samples: Mapping[int, Sample], *, items: int) -> Order:
    """The order of a training whose samples were chosen before it, in a catalogue of `items`."""
    prompts = spec.training.prompts_per_step
    if not spec.arms:
        replays = spec.training.replays
        return FixedOrder(spec.order, samples, prompts=prompts, replays=replays)
    assert spec.selection is not None
    return PacedOrder(
        spec.order,
        spec.arms,
        samples,
        prompts=prompts,
        settings=spec.selection,
        seed=spec.seed,
        staleness=spec.training.staleness,
        chance=chance_level(items, cutoff=spec.reward.cutoff),
    )


class PacedOrder:
    """An `Order` of K clusters; each gives its samples in the order of the selection, again and
    again. With one cluster it is the `FixedOrder` of the selection.

    A step is drawn from the results that are there when its rollouts are requested: with staleness
    1, those of the step before are missing.
    """

    def __init__(
        self,
        order: Sequence[int],
        arms: Sequence[int],
        samples: Mapping[int, Sample],
        *,
        prompts: int,
        settings: SelectionConfig,
        seed: int,
        staleness: int,
        chance: float,
    ):
        """Args:
        order: (k,) sample_ids in the order of the selection. arms: (k,) their clusters.
        samples: by sample_id.
        prompts: of a step.
        settings: `pace`, `pace_noise`, `pace_memory`.
        chance: NDCG of a policy that ranks at random.
        """
        self.samples, self.prompts, self.settings = samples, prompts, settings
        self.seed, self.staleness, self.chance = seed, staleness, chance
        self.order, codes = np.asarray(order, np.int64), np.asarray(arms, np.int64)
        self.queues = [np.flatnonzero(codes == arm) for arm in range(int(codes.max()) + 1)]
        self.arms = codes
        self.given = np.zeros(len(self.queues), np.int64)
        self.rows: dict[int, Rows] = {}  # of each step that was prepared
        self.pulls = Pulls()

    def prepare(self, step: int, table: Any) -> dict[str, Any]:
        """Draw the samples of a step, unless a checkpoint brought them."""
        if step in self.rows:
            return {}
        s = self.settings
        before = step - self.staleness
        stats = self.pulls.stats(
            arms=len(self.queues), before=before, memory=s.pace_memory, pace=s.pace
        )
        sizes = np.array([len(queue) for queue in self.queues])
        drawn = draw_arms(
            stats,
            places=self.prompts,
            noise=s.pace_noise,
            seed=pace_seed(self.seed, step),
            sizes=sizes,
        )
        self.rows[step] = np.array([self._next(arm) for arm in drawn.tolist()], np.int64)
        return arm_counts(drawn, arms_in_all=len(self.queues))

    def _next(self, arm: int) -> int:
        """The next row of an arm."""
        queue = self.queues[arm]
        self.given[arm] += 1
        return int(queue[(self.given[arm] - 1) % len(queue)])

    def batch(self, step: int) -> Batch:
        ids = self.order[self.rows[step]].tolist()
        return [(step * self.prompts + i, self.samples[number]) for i, number in enumerate(ids)]

    def learned(self, step: int, own: Sequence[tuple[float, float, float]]) -> None:
        results = all_results(own)
        lifts = lift(results[:, 0], chance=self.chance)
        rows = self.rows[step]
        self.pulls.add(step, rows, self.arms[rows], lifts, results[:, 2])

    def save(self, folder: Path) -> None:
        steps = sorted(self.rows)
        state: dict[str, Any] = {f"pulls_{k}": v for k, v in self.pulls.state().items()}
        state |= {"steps": np.array(steps), "rows": np.array([self.rows[s] for s in steps])}
        state["given"] = self.given
        with atomic(folder / STATE) as file:
            np.savez(file, **state)

    def restore(self, folder: Path) -> None:
        with np.load(folder / STATE) as state:
            self.given = state["given"]
            self.rows = dict(zip(state["steps"].tolist(), state["rows"], strict=True))
            names = self.pulls.state()
            self.pulls.restore({name: state[f"pulls_{name}"] for name in names})

    def finish(self, folder: Path) -> None:
        write_table(folder / PULLS, self.pulls.table(self.order))
