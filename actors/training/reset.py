"""Moves the weights of a training back towards those of its start (`minirec.rl.replay`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actors.training.spec import TrainingSpec
from minirec.model.recommender import Policy
from minirec.rl.replay import shrunk

SECOND = "lora_B"
"""The factor of a LoRA update that is 0 at the start of a training from the base model."""


class Reset:
    """Resets the weights before some steps. All workers must make the same calls.

    The change of a weight is B A. A training from the base model starts with B = 0, so keeping a
    share of B keeps exactly this share of the change, and A stays. From another adapter, A and B
    are both mixed with their start, which is only near a mixture of the changes.

    The optimizer starts again too: its moments would drive the weights back.
    """

    def __init__(self, policy: Policy, spec: TrainingSpec):
        """`policy` has the weights of the start, and DeepSpeed has not divided them yet."""
        self.every, self.keep = spec.training.reset_steps, spec.training.reset_keep
        self.stage, self.steps = spec.zero_stage, spec.steps
        self.start: dict[str, Tensor | None] = {}
        if self.every:
            for name, weight in policy.named_parameters():
                if weight.requires_grad and (spec.start or SECOND in name):
                    self.start[name] = weight.detach().cpu().clone() if spec.start else None

    def after(self, step: int, engine: Any) -> None:
        """Reset after the update of a step if one is due; the last step has none after it."""
        if not self.every or (step + 1) % self.every or step + 1 == self.steps:
            return
        for name, weight in engine.module.named_parameters():
            if name in self.start:
                self._mix(weight, self.start[name])
        forget_moments(engine)

    @torch.no_grad()
    def _mix(self, weight: Any, start: Tensor | None) -> None:
        if not self.stage:
            weight.copy_(shrunk(weight, None if start is None else start.to(weight), self.keep))
            return
        # DeepSpeed keeps the float32 weights apart from those that the passes read.
        from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

        now = safe_get_full_fp32_param(weight)
        new = shrunk(now, None if start is None else start.to(now), self.keep)
        safe_set_full_fp32_param(weight, new)
        if self.stage < 3:
            weight.copy_(new)


@torch.no_grad()
def forget_moments(engine: Any) -> None:
    """Set the state of Adam to that of a new optimizer: moments and their number of steps."""
    optimizer = engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)  # below the one of ZeRO
    for state in inner.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
