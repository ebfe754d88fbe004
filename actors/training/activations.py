"""Decides in each step whether the activations fit into the memory of a worker."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import psutil
import torch

from actors.training.zero import of_rank_0
from minirec.model.recommender import Policy
from minirec.resources.estimates import shape_of

SHARE = 0.5
"""Share of the free memory at the start that activations may take. Logits, gradients and the blocks
that the allocator cannot use need the rest."""


class Activations:
    """Turns gradient checkpointing of a policy on and off. It changes only speed and memory."""

    def __init__(
        self, policy: Policy, setting: bool | Literal["auto"], *, model_path: str, workers: int
    ):
        """Args:
        setting: `training.gradient_checkpointing`.
        model_path: folder or hub name of the base model.
        workers: training workers that share the memory of this machine, where they use no GPU.
        """
        self.policy, self.on = policy, setting is True
        policy.checkpoint_activations(self.on)
        self.shape = shape_of(model_path) if setting == "auto" else None
        # All workers must decide alike: ZeRO 3 gathers weights once more for a recomputed block.
        self.room = of_rank_0(lambda: SHARE * free_memory(policy.device, workers=workers))

    def make_fit(self, tokens: int, *, row: int) -> bool:
        """Choose for a step whose largest pass has so many tokens, in rows of at most `row` tokens;
        returns whether it is on."""
        if self.shape:
            each = self.shape.activation_bytes(self.policy.dtype.itemsize, row=row)
            self._switch(tokens * each > self.room)
        return self.on

    def _switch(self, on: bool) -> None:
        if on != self.on:
            self.policy.checkpoint_activations(on)
            self.on = on


def free_memory(device: torch.device, *, workers: int) -> float:
    """Bytes that a worker can still take, on its GPU or as its part of the machine's memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(psutil.virtual_memory().available, _left_in_container()) / workers


def _left_in_container() -> float:
    """Bytes that the limit of the container leaves; infinite without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{x}").read_text().strip() for x in ("max", "current"))
    except OSError:
        return math.inf
    return math.inf if limit == "max" else float(int(limit) - int(used))
