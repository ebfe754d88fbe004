"""What a step learns from agreement: pseudo-targets, and the states that consistency compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.training.zero import spread
from minirec.rl.agreement import Views, capped, pseudo_targets
from minirec.rl.group import Group
from minirec.rl.ranker import Ranker
from minirec.rl.rollouts import Objective


class Agreement:
    """Runs the policy, so all workers must make the same calls; they get the same results."""

    def __init__(self, engine: Any, objective: Objective):
        """`engine`: the policy, or a DeepSpeed engine around it."""
        self.engine, self.objective = engine, objective
        self.training = objective.training
        self.figures: dict[str, float] = {}

    def labelled(
        self, step: int, groups: list[Group], table: Tensor | None
    ) -> tuple[list[Group], dict[str, float]]:
        """The groups of the global batch, in which those without a target have a pseudo-target and
        a weight; and figures for the log.

        A dropped group has the weight 0 and the target of the first group, so that it adds no
        candidate. Steps on the same rollouts have the groups of the first of them, and keep its
        pseudo-targets.
        """
        t = self.training
        if t.unlabelled and t.writes(step):
            groups, self.figures = self._labelled(groups, table)
        return groups, self.figures

    def _labelled(
        self, groups: Sequence[Group], table: Tensor | None
    ) -> tuple[list[Group], dict[str, float]]:
        t = self.training
        assert table is not None
        asked = [group for group in groups if group.target < 0]
        ranker = Ranker(table, self.objective.temperature, self.objective.prior)
        first = spread(
            len(asked), t.prompts_per_micro_batch, lambda part: self._first(asked, part, ranker)
        )
        elected = pseudo_targets(torch.tensor(first), t.unlabelled_confidence)
        weight = torch.where(elected.kept, elected.share, 0.0)
        weight = capped(weight, elected.target, most=t.unlabelled_most)
        targets, weights = iter(elected.target.tolist()), iter(weight.tolist())
        found = []
        for group in groups:
            if group.target < 0:
                target, own = next(targets), next(weights)
                target = target if own else groups[0].target
                group = replace(group, target=target, weight=own, labelled=False)
            found.append(group)
        figures = {
            "unlabelled_kept": float(elected.kept.double().mean()),
            "unlabelled_agreement": float(elected.share.mean()),
            "unlabelled_weight": float(weight.mean()),
            "unlabelled_items": len(set(elected.target[elected.kept].tolist())),
        }
        return found, figures

    @torch.no_grad()
    def _first(self, groups: Sequence[Group], part: range, ranker: Ranker) -> list[list[int]]:
        """The item that each rollout of these groups ranks first, without the excluded ones."""
        asked = [groups[i] for i in part]
        hidden, _ = self.engine(groups=asked, logprobs=False)
        best = ranker.best(hidden, ranker.targets(asked))
        return best.view(len(asked), -1).tolist()

    def views(self, groups: Sequence[Group]) -> Views | None:
        """The first two rollouts of each group of the global batch; None without consistency."""
        t = self.training
        if not t.consistency:
            return None
        pairs = [group.pair for group in groups]

        @torch.no_grad()
        def states(part: range) -> list[list[list[float]]]:
            hidden, _ = self.engine(groups=[pairs[i] for i in part], logprobs=False)
            return F.normalize(hidden, dim=-1).view(len(part), 2, -1).tolist()

        unit = torch.tensor(spread(len(pairs), t.prompts_per_micro_batch, states))
        ids = torch.tensor([group.sample_id for group in groups])
        return Views(ids.to(self.engine.device), unit.to(self.engine.device))
