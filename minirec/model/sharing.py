"""Whether a prompt and its rollouts are less work in one sequence; loads no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ARCHITECTURES = frozenset({"qwen2", "qwen3", "llama"})


@dataclass(frozen=True)
class Sharing:
    """Where packed groups are less work for a model that can take them.

    `pairs_per_token` is what a token costs in the linear layers of a block, counted in pairs of
    query and key: hundreds for tiny models, thousands for large ones.
    """

    pairs_per_token: float

    @classmethod
    def of(cls, causal: Any) -> Sharing | None:
        """For a causal LM; None where it needs separate sequences.

        Known to take packed ones: `ARCHITECTURES` with full attention and explicit masks.
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
        # 2 FLOPs for each weight and token; 4 for each pair and number of a query.
        return cls(weights / (2 * query))

    def saves(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int], rollouts: Sequence[int]
    ) -> bool:
        """Whether the groups are less work packed, padding counted; arguments as for `pack`.

        Attention grows with the square of a row, and a packed row holds all completions of its
        group, so long completions of a short prompt are better read alone.
        """
        packed = self._work(len(rollouts), packed_width(sequences, starts, slices(rollouts)))
        return packed < self._work(len(sequences), max(map(len, sequences)))

    def _work(self, rows: int, width: int) -> float:
        return rows * width * (self.pairs_per_token + width)


def slices(sizes: Sequence[int]) -> list[slice]:
    """Consecutive slices of the given sizes."""
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def packed_width(
    sequences: Sequence[Sequence[int]], starts: Sequence[int], groups: Sequence[slice]
) -> int:
    """Tokens of the longest group, its prompt counted once."""
    return max(starts[g.start] + sum(map(len, sequences[g])) - sum(starts[g]) for g in groups)
