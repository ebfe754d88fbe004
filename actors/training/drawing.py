"""The rollouts of training steps: asked for, completed by further ones, and judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from actors.engines.engine import FORCED
from actors.pool.actor import Call, calls_of
from actors.training.adapters import Adapters
from actors.training.completed import completed
from actors.training.further import Further
from actors.training.lookahead import Lookahead
from actors.training.order import Order
from actors.training.spec import TrainingSpec
from actors.training.texts import Judge
from actors.training.written import Written
from actors.training.zero import of_rank_0
from minirec.corpus.table import Catalogue
from minirec.model.recommender import Encoder
from minirec.model.sharing import Sharing
from minirec.rl.group import Group
from minirec.rl.rollouts import Objective
from minirec.rng import seed_of


class Drawing:
    """The groups of each step. All workers make the same calls, and rank 0 asks the engines.

    `written` is what engines wrote in the last step. `lookahead` is None without engines.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        folder: Path,
        order: Order,
        encoder: Encoder,
        catalogue: Catalogue,
        adapters: Adapters,
        policy: Any,
        sharing: Sharing | None,
        objective: Objective,
    ):
        """Args:
        folder: of the training; rollouts that are kept go into a folder of it.
        policy, sharing: as for `Further`.
        """
        self.spec, self.order, self.encoder, self.catalogue = spec, order, encoder, catalogue
        self.adapters, self.written = adapters, Written()
        self.judge = Judge(spec, encoder, catalogue)
        self.kept: Sequence[Group] = []
        self.lookahead: Lookahead | None = None
        if spec.pool is not None:
            self.lookahead = Lookahead(
                spec.pool,
                self._calls,
                steps=spec.steps,
                staleness=spec.training.staleness,
                folder=folder / "rollouts" if spec.saves_rollouts else None,
            )
        self.further = Further(
            spec,
            policy=policy,
            sharing=sharing,
            objective=objective,
            encoder=encoder,
            lookahead=self.lookahead,
            adapters=adapters,
        )

    def groups(self, step: int, table: Tensor | None) -> tuple[list[Group], dict[str, float]]:
        """The groups of the global batch, and their seconds for the log.

        Steps on the same rollouts have the groups of the first of them (`keep`). Without engines,
        each prompt has the forced answer as its only completion.

        Args:
            table: (V, d) item vectors, for the rewards of further rollouts.
        """
        lookahead, self.written = self.lookahead, Written()
        if lookahead is not None and not self.spec.training.writes(step):
            return [*self.kept], {}
        batch = self.order.batch(step)
        samples = [sample for _, sample in batch]
        if lookahead is None:
            prompts = self.encoder.prompts(samples, self.catalogue)
            both = zip(samples, prompts, strict=True)
            return [self.encoder.group(sample, prompt, [FORCED]) for sample, prompt in both], {}
        drawn = of_rank_0(
            lambda: lookahead.take(step, newest=self.adapters.newest, behind=self.adapters.behind)
        )
        groups = [
            self.encoder.group(sample, prompt, completions)
            for sample, (prompt, completions) in zip(samples, drawn.rollouts, strict=True)
        ]
        groups, self.written = completed(self.further, step, groups, batch, table)
        return self.judge(step, groups, samples), drawn.times(more=self.written.seconds)

    def keep(self, groups: Sequence[Group]) -> None:
        """The groups for further steps on the same rollouts."""
        self.kept = groups

    def close(self) -> None:
        """Wait for rollouts that were requested ahead."""
        if self.lookahead:
            self.lookahead.close()

    def _calls(self, step: int) -> list[Call]:
        assert self.spec.pool is not None
        batch = self.order.batch(step)
        prompts = self.encoder.prompts([sample for _, sample in batch], self.catalogue)
        return calls_of(
            prompts,
            n=self.spec.training.written_first,
            seeds=[seed_of(self.spec.seed, "train", p) for p, _ in batch],
            size=self.spec.prompts_per_call,
            engines=len(self.spec.pool),
        )
