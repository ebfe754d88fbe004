"""Asks the engines again in a step, after its first rollouts, and rewards what they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from actors.engines.engine import Completion
from actors.pool.actor import calls_of
from actors.training.adapters import Adapters
from actors.training.lookahead import Lookahead
from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0, spread
from minirec.model.recommender import Encoder
from minirec.model.sharing import Sharing
from minirec.rl.group import Group
from minirec.rl.rollouts import Objective, rewards_of

PASS_TOKENS = 64 * 512
"""Tokens in one pass of a worker, whatever the micro-batch of the training."""


class Further:
    """Asks the engines again in a step. All workers make the same calls and get the same."""

    def __init__(
        self,
        spec: TrainingSpec,
        *,
        policy: Any,
        sharing: Sharing | None,
        objective: Objective,
        encoder: Encoder,
        lookahead: Lookahead | None,
        adapters: Adapters,
    ):
        """Args:
        policy: the policy in training, or a DeepSpeed engine around it.
        sharing: how the policy reads groups (`Policy.sharing`).
        lookahead: None without engines.
        adapters: the newest is the one that the step begins with.
        """
        self.spec, self.policy, self.sharing = spec, policy, sharing
        self.objective, self.encoder = objective, encoder
        self.lookahead, self.adapters = lookahead, adapters

    def ask(
        self,
        step: int,
        prompts: Sequence[list[int]],
        *,
        n: int,
        seeds: Sequence[int],
        part: str,
        limits: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt by the weights that the step begins with; rank 0 asks.

        Args:
            part: of the name of the file, if rollouts are kept.
            limits: the most tokens of the completions of each prompt.
        """
        lookahead, pool = self.lookahead, self.spec.pool
        assert lookahead is not None and pool is not None
        if not prompts:
            return []
        size = self.spec.prompts_per_call
        calls = calls_of(prompts, n=n, seeds=seeds, size=size, engines=len(pool), limits=limits)
        newest = self.adapters.newest
        return of_rank_0(lambda: lookahead.more(step, calls, part=part, adapter=newest))

    def rewards(self, groups: Sequence[Group], table: Tensor) -> list[list[float]]:
        """The rewards of all rollouts of groups of equal size, by passes without gradient.

        The workers share the passes. These depend on the groups alone, so the rewards depend
        neither on the number of workers nor on the micro-batch.
        """
        if not groups:
            return []
        longest = [max(map(len, group.sequences)) for group in groups]
        order = sorted(range(len(groups)), key=lambda i: (longest[i], i))  # less padding
        block = max(1, PASS_TOKENS // (len(groups[0].completions) * max(longest)))

        def found(part: range) -> list[list[float]]:
            mine = [groups[order[i]] for i in part]
            return rewards_of(self.policy, mine, table=table, objective=self.objective).tolist()

        by_place = dict(zip(order, spread(len(groups), block, found), strict=True))
        return [by_place[i] for i in range(len(groups))]
