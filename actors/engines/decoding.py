"""Attention and KV cache of the transformers engine, without needless copies.

With grouped-query attention, several query heads read the same keys and values. On CPUs,
transformers copies those for each query head at every token. And its cache copies all earlier keys
and values at every token to append the new ones.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "minirec_grouped"
"""Name of `grouped_attention` among the implementations of transformers."""


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' ``sdpa``; one new token per row needs no copies of keys and values.

    Args:
        query: (B, heads, T, d), the heads of a group one after another.
        key, value: (B, groups, S, d).
        attention_mask: (B, 1, T, S), or None.

    Returns:
        (B, T, heads, d), and None for the attention weights.
    """
    rows, heads, new, size = query.shape
    groups = key.shape[1]
    if new > 1 or heads == groups or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # All query heads of a group see the same tokens, so they can be the queries of one head.
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, groups, heads // groups, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=options.get("scaling"),
    )
    return output.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer in tensors with room for `room` more tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, T, d) of T new tokens; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (self._roomy(self.keys), self._roomy(self.values))
        keys, values = self._buffers
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _roomy(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, tokens, size = states.shape
        buffer = states.new_empty(rows, heads, tokens + self._room, size)
        buffer[:, :, :tokens] = states
        return buffer

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row; the next `update` makes new room."""
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows; the next `update` makes new room."""
        super().batch_select_indices(indices)
        self._buffers = None


def roomy_cache(config: Any, room: int) -> DynamicCache:
    """An empty cache of a model; layers with a sliding window or other states stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache
