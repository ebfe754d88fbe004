"""What autograd keeps for a backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def saved_bytes(function: Callable[[], object], module: nn.Module) -> int:
    """Bytes that autograd saves during a call, without the weights of the module."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(size for size, _ in kept.values())
