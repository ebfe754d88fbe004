"""Rollouts of one prompt in one sequence, so that the prompt is read once.

A group becomes prompt + completion 1 + ... + completion G. A token attends to the prompt and to the
earlier tokens of its own completion, and has the same position as in a separate sequence. So states
and gradients equal those of G separate sequences. `Sharing` decides where this is cheaper; it needs
no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minirec.rl.group import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ARCHITECTURES = frozenset({"qwen2", "qwen3", "llama"})
Lengths = tuple[int, list[int]]
"""Tokens of a prompt, and of each of its completions."""


@dataclass(frozen=True)
class Sharing:
    """Decides whether packed groups are cheaper, for a model that can read them.

    `pairs_per_token` is the cost of a token in the linear layers of a block, in query-key pairs:
    hundreds for tiny models, thousands for large ones.
    """

    pairs_per_token: float

    @classmethod
    def of(cls, causal: Any) -> Sharing | None:
        """For a causal LM; None if it cannot read packed groups.

        `ARCHITECTURES` can, with full attention and explicit masks.
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
        """Whether the groups are cheaper packed, including padding.

        The cost of attention grows with the square of the row length, and a packed row holds all
        completions of its group. So long completions of a short prompt are cheaper in separate
        rows.
        """
        apart = [prompt + length for prompt, completions in groups for length in completions]
        packed = self._work(len(groups), packed_width(groups))
        return packed < self._work(len(apart), max(apart))

    def _work(self, rows: int, width: int) -> float:
        return rows * width * (self.pairs_per_token + width)


def packed_width(groups: Sequence[Lengths]) -> int:
    """Tokens of the longest group, with its prompt counted once."""
    return max(prompt + sum(completions) for prompt, completions in groups)


@dataclass(frozen=True)
class Packed:
    """P groups as P right-padded rows of L tokens.

    ids, positions (P, L) int64; mask (P, 1, L, L), added to attention scores; predicts (T,) flat
    index (row * L + column) of the state that predicts each completion token; targets (T,) these
    tokens, group after group; last (B,) flat index of the last token of each sequence.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    predicts: Tensor
    targets: Tensor
    last: Tensor


def pack(
    groups: Sequence[Group], *, pad_id: int, dtype: torch.dtype, device: torch.device
) -> Packed:
    """Pack P groups; `dtype` is the dtype of the mask."""
    import torch

    width = packed_width([group.lengths for group in groups])
    ids = torch.full((len(groups), width), pad_id, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, -1)  # 0: prompt, 1..G: completion, -1: padding
    predicts: list[int] = []
    targets: list[int] = []
    last: list[int] = []
    for row, group in enumerate(groups):
        start = column = len(group.prompt)
        ids[row, :start] = torch.tensor(group.prompt)
        positions[row, :start] = torch.arange(start)
        branch[row, :start] = 0
        for number, completion in enumerate(group.completions, 1):
            end = column + len(completion)
            ids[row, column:end] = torch.tensor(completion)
            positions[row, column:end] = torch.arange(start, start + len(completion))
            branch[row, column:end] = number
            # The end of the prompt predicts the first token, each token predicts the next one.
            states = [start - 1, *range(column, end)]
            predicts += [row * width + state for state in states[:-1]]
            last.append(row * width + states[-1])
            targets += completion
            column = end
    return Packed(
        ids.to(device),
        positions.to(device),
        _mask(branch.to(device), dtype),
        *(torch.tensor(x, dtype=torch.int64, device=device) for x in (predicts, targets, last)),
    )


def _mask(branch: Tensor, dtype: torch.dtype) -> Tensor:
    """(P, 1, L, L): 0 where the query (row) sees the key (column), else the dtype's minimum."""
    import torch

    query, key = branch[:, :, None], branch[:, None, :]
    earlier = torch.ones(branch.shape[1:] * 2, dtype=torch.bool, device=branch.device).tril()
    # Padding attends to padding, because a softmax row without keys is NaN.
    seen = earlier & ((key == 0) & (query >= 0) | (key == query))
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
