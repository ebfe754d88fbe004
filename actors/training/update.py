"""The optimizer of a training step: its learning rate, and its update."""

from __future__ import annotations

from typing import Any

import torch

from actors.training.spec import TrainingSpec
from minirec.rl.schedule import lr_factor


def set_learning_rate(engine: Any, spec: TrainingSpec, step: int, *, spent: float) -> None:
    """Set the learning rate of a step; `spent` is the share of `token_limit` before it."""
    t = spec.training
    assert t.learning_rate is not None
    factor = lr_factor(
        step, steps=spec.steps, warmup=t.lr_warmup_steps, schedule=t.lr_schedule, spent=spent
    )
    for group in engine.optimizer.param_groups:
        group["lr"] = t.learning_rate * factor


def optimizer_step(engine: Any, *, zero_stage: int) -> float:
    """Step with the gradient of all backwards; returns its norm before clipping."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    own = torch.nn.utils.get_total_norm(gradients)
    engine.step()
    # With ZeRO stages 1 to 3 the gradients are not in p.grad, but DeepSpeed reports the norm.
    return float(engine.get_global_grad_norm() if zero_stage else own)
