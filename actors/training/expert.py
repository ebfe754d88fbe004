"""The demonstrations that the steps of a training imitate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.training.spec import TrainingSpec
from minirec.corpus.table import Sample
from minirec.evaluation.expert import load_expert
from minirec.rl.demonstrations import Demonstrations
from minirec.rl.group import Group
from minirec.rl.schedule import lr_factor
from minirec.store.remote import located

WEIGHT = "expert_weight"
"""Entry of the log: the mean weight of the demonstrations of a step, before it is divided by that
of the step before."""


class Demonstrator:
    """All workers have one, and get the same demonstrations. Its only state is the log."""

    def __init__(
        self, spec: TrainingSpec, samples: Mapping[int, Sample], log: Sequence[dict[str, Any]]
    ):
        """Args:
        samples: of the training, by sample_id.
        log: of the training, which grows with each step.
        """
        t = spec.training
        self.spec, self.samples, self.log = spec, samples, log
        self.expert = (
            None
            if t.expert == "none"
            else load_expert(
                located(spec.corpus),
                t.expert,
                table=t.expert_table,
                items=t.expert_items,
                cutoff=spec.reward.cutoff,
            )
        )

    def of(self, step: int, groups: Sequence[Group], *, spent: float) -> Demonstrations | None:
        """The demonstrations for the labelled groups of a global batch; None without an expert.

        `spent` is the share of `token_limit` that earlier steps have spent.
        """
        if self.expert is None:
            return None
        t = self.spec.training
        asked = {g.sample_id: self.samples[g.sample_id] for g in groups if g.labelled}
        fall = lr_factor(step, steps=self.spec.steps, warmup=0, schedule=t.lr_schedule, spent=spent)
        before = self.log[-1].get(WEIGHT) if self.log else None
        return Demonstrations(
            self.expert([*asked.values()]), share=t.expert_weight * fall, norm=before or 1.0
        )
