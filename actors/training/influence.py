"""The rule influence of live selection: chooses the samples of several steps at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from actors.training.items import shared_table
from actors.training.live import CHOICE_TOKENS, LiveOrder
from actors.training.spec import TrainingSpec
from actors.training.validation import goal_rows
from actors.training.zero import spread
from minirec.corpus.table import Sample, SampleFile
from minirec.model.tokens import FORWARD
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import ndcg
from minirec.selection.checks import Floats
from minirec.selection.head_gradients import head_gradient
from minirec.selection.influence import Goal, influences, most_influential
from minirec.selection.learnability import lift
from minirec.selection.live import FORCED, INFLUENCE, Choice
from minirec.store.remote import located

T = TypeVar("T")


def live_order(spec: TrainingSpec, **parts: Any) -> LiveOrder:
    """The order of a training with live selection; `parts` as for `LiveOrder`."""
    assert spec.live is not None
    kind = InfluenceOrder if spec.live.rule == "influence" else LiveOrder
    return kind(spec, **parts)


class InfluenceOrder(LiveOrder):
    """A `LiveOrder` that chooses at the start of each stage, for all its steps.

    The pool of a stage are the next samples of the stream. Those with the highest influence on the
    validation samples are trained, in the order of the stream, which is random. The steps that are
    chosen but not trained are in each checkpoint, so a restart measures nothing again.
    """

    def __init__(self, spec: TrainingSpec, **parts: Any):
        super().__init__(spec, **parts)
        self.steps = spec.steps
        file = SampleFile(located(spec.corpus), "valid")
        self.goal_samples = file.take(goal_rows(spec, len(file)))
        prompts = self.encoder.prompts(self.goal_samples, self.catalogue)
        self.goal_prompts = [prompt + self.encoder.answer_ids for prompt in prompts]

    def prepare(self, step: int, table: Tensor | None) -> dict[str, Any]:
        """Choose the samples of the stage that starts at `step`, if one does."""
        if step in self.batches:
            return {}
        started = time.monotonic()
        steps = min(self.settings.stage_steps, self.steps - step)
        pool = self.selection.candidates(steps=steps)
        prompts = [self._prompt(row) for row in pool.rows.tolist()]
        samples = [self.samples[int(self.selection.ids[row])] for row in pool.rows]
        items = shared_table(self.policy, self.items) if table is None else table
        lifts, influence = self._measured(samples, prompts, items)
        self.selection.see(FORCED, pool.rows, lifts, at_pass=pool.at_pass)
        taken = most_influential(influence, steps * self.prompts)
        self.selection.cursor = int(pool.positions.max()) + 1
        for number, rows in enumerate(np.split(pool.rows[taken], steps)):
            self.batches[step + number] = rows
            self.passes[step + number] = pool.at_pass
            choice = Choice(rows, [INFLUENCE] * len(rows))
            self.record.add(step + number, self.selection, choice)
        read = sum(map(len, prompts)) + sum(map(len, self.goal_prompts))
        tokens = self.table_tokens + FORWARD * read
        self.tokens += tokens
        return {
            CHOICE_TOKENS: tokens,
            "choice_prompts": len(prompts) + len(self.goal_prompts),
            "choice_seconds": round(time.monotonic() - started, 3),
            "pool_influence": float(influence.mean()),
            "taken_influence": float(influence[taken].mean()),
        }

    @torch.no_grad()
    def _measured(
        self, samples: list[Sample], prompts: list[list[int]], table: Tensor
    ) -> tuple[Floats, Floats]:
        """The lift of the forced answer and the influence of samples, each (n,) float64."""
        ranker = Ranker(table, self.objective.temperature, self.objective.prior)
        cutoff = min(self.objective.cutoff, len(table))
        states = self._spread(self.goal_prompts, self._states)
        hidden = torch.tensor(states, device=table.device)
        targets = ranker.targets(self.goal_samples)
        goal = Goal(_gradients(hidden, ranker, targets), hidden)

        def compute(part: list[int]) -> list[tuple[float, float]]:
            hidden = self.policy([prompts[i] for i in part])[0].float()
            targets = ranker.targets([samples[i] for i in part])
            gains = ndcg(ranker.rank(hidden, targets), cutoff)
            found = influences(_gradients(hidden, ranker, targets), hidden, goal)
            return list(zip(gains.tolist(), found.tolist(), strict=True))

        gains, influence = np.array(self._spread(prompts, compute), np.float64).T
        return lift(gains, chance=self.chance), influence

    def _states(self, part: list[int]) -> list[list[float]]:
        hidden: Tensor = self.policy([self.goal_prompts[i] for i in part])[0]
        return hidden.float().tolist()

    def _spread(
        self, prompts: Sequence[list[int]], compute: Callable[[list[int]], list[T]]
    ) -> list[T]:
        """A value for each prompt, from all workers; prompts of like length share a pass.

        The values are gathered, so all workers choose alike even if they round differently.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        found = spread(len(order), self.block, lambda rows: compute([order[i] for i in rows]))
        return [found[place] for place in np.argsort(order).tolist()]


def _gradients(hidden: Tensor, ranker: Ranker, targets: Targets) -> Tensor:
    """The gradients (n, d) of the head loss by the hidden states (n, d)."""
    return head_gradient(
        hidden.to(ranker.table.device),
        items=ranker.table,
        target=targets.target,
        mask=targets.excluded,
        prior=targets.prior,
        temperature=ranker.temperature,
    )
