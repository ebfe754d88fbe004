"""Whether a prompt and its rollouts are cheaper to read in one sequence; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ARCHITECTURES = frozenset({"qwen2", "qwen3", "llama"})
Lengths = tuple[int, list[int]]
"""Tokens of a prompt and of each of its completions."""


@dataclass(frozen=True)
class Sharing:
    """Decides where packed groups are cheaper, for a model that can read them.

    `pairs_per_token` is the cost of a token in the linear layers of a block, in pairs of query and
    key: hundreds for tiny models, thousands for large ones.
    """

    pairs_per_token: float

    @classmethod
    def of(cls, causal: Any) -> Sharing | None:
        """For a causal LM; None if it cannot read packed groups.

        `ARCHITECTURES` with full attention and explicit masks can.
        """
        config = causal.config
        kinds = getattr(config, "layer_types", None) or ["full_attention"]
        if not (
            config.model_type in ARCHITECTURES
            and config._attn_implementation in ("sdpa", "eager")
            and set(kinds) == {"full_attention"}
        ):
            return None
        size, heads = config.hidden_size, config.num_attention_heads
        head = getattr(config, "head_dim", None) or size // heads
        query, key = heads * head, config.num_key_value_heads * head
        weights = size * (2 * query + 2 * key + 3 * config.intermediate_size)
        # 2 FLOPs for each weight and token; 4 for each pair and each number of a query vector.
        return cls(weights / (2 * query))

    def saves(self, groups: Sequence[Lengths]) -> bool:
        """Whether the groups are cheaper packed, padding included.

        The cost of attention grows with the square of a row's length, and a packed row holds all
        completions of its group. So long completions of a short prompt are cheaper apart.
        """
        apart = [prompt + length for prompt, completions in groups for length in completions]
        packed = self._work(len(groups), packed_width(groups))
        return packed < self._work(len(apart), max(apart))

    def _work(self, rows: int, width: int) -> float:
        return rows * width * (self.pairs_per_token + width)


def packed_width(groups: Sequence[Lengths]) -> int:
    """Tokens of the longest group, with its prompt counted once."""
    return max(prompt + sum(completions) for prompt, completions in groups)
