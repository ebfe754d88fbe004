"""Rollouts of one prompt in one sequence, so that the prompt is read once.

A group becomes prompt + completion 1 + ... + completion G. A token attends to the prompt and to the
earlier tokens of its own completion, and has the same position as in a separate sequence. So states
and gradients equal those of G separate sequences. Short groups share a row with others, in the room
that the longest one would leave as padding. `Sharing` decides where this is cheaper; it needs no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def saves(self, groups: Sequence[Lengths], *, alone: bool = False) -> bool:
        """Whether the groups are cheaper packed, including padding; `alone` as in `packed_rows`.

        The cost of attention grows with the square of the row length, and a packed row holds all
        completions of its group. So long completions of a short prompt are cheaper in separate
        rows.
        """
        apart = [prompt + length for prompt, completions in groups for length in completions]
        packed = self._work(len(packed_rows(groups, alone=alone)), packed_width(groups))
        return packed < self._work(len(apart), max(apart))

    def padded(self, groups: Sequence[Lengths]) -> int:
        """Tokens of the pass over these groups, including padding."""
        if self.saves(groups):
            return len(packed_rows(groups)) * packed_width(groups)
        return padded_apart(groups)

    def _work(self, rows: int, width: int) -> float:
        return rows * width * (self.pairs_per_token + width)


def packed_width(groups: Sequence[Lengths]) -> int:
    """Tokens of the longest group, with its prompt counted once."""
    return max(prompt + sum(completions) for prompt, completions in groups)


def packed_rows(groups: Sequence[Lengths], *, alone: bool = False) -> list[list[int]]:
    """The groups that share each row, by position: first fit, the longest first.

    A row is as long as the longest group, so that sharing only fills what would be padding.
    `alone` gives each group its own row, in order.
    """
    if alone:
        return [[number] for number in range(len(groups))]
    sizes = [prompt + sum(completions) for prompt, completions in groups]
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fits = next((row for row, left in enumerate(room) if sizes[number] <= left), None)
        if fits is None:
            rows.append([])
            room.append(max(sizes))
            fits = len(rows) - 1
        rows[fits].append(number)
        room[fits] -= sizes[number]
    return rows


def padded_apart(groups: Sequence[Lengths]) -> int:
    """Tokens of a pass in which each completion has its own row, including padding."""
    lengths = [prompt + length for prompt, completions in groups for length in completions]
    return len(lengths) * max(lengths, default=0)


@dataclass(frozen=True)
class Packed:
    """Groups as R right-padded rows of L tokens.

    ids, positions (R, L) int64; mask (R, 1, L, L), added to attention scores; predicts (T,) flat
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
    groups: Sequence[Group],
    *,
    pad_id: int,
    dtype: torch.dtype,
    device: torch.device,
    alone: bool = False,
) -> Packed:
    """Pack groups; `dtype` is the dtype of the mask, `alone` as in `packed_rows`."""
    import torch

    lengths = [group.lengths for group in groups]
    rows, width = packed_rows(lengths, alone=alone), packed_width(lengths)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    part = torch.full_like(ids, -1)  # number of the prompt or completion; -1: padding
    prompt = torch.full_like(ids, -1)  # number of the prompt that the token follows
    indices = [_Indices() for _ in groups]
    parts = 0
    for row, together in enumerate(rows):
        column = 0
        for number in together:
            group, start = groups[number], column
            column += len(group.prompt)
            ids[row, start:column] = torch.tensor(group.prompt)
            positions[row, start:column] = torch.arange(column - start)
            part[row, start:column] = root = parts
            first = column - start  # position of the first token of each completion
            base, before = row * width, column - 1
            for completion in group.completions:
                parts += 1
                end = column + len(completion)
                ids[row, column:end] = torch.tensor(completion)
                positions[row, column:end] = torch.arange(first, first + len(completion))
                part[row, column:end] = parts
                # The end of the prompt predicts the first token, each token predicts the next one.
                states = [base + before, *range(base + column, base + end)]
                indices[number].predicts += states[:-1]
                indices[number].last.append(states[-1])
                column = end
            prompt[row, start:column] = root
            parts += 1
    predicts = [state for one in indices for state in one.predicts]
    targets = [token for group in groups for written in group.completions for token in written]
    last = [state for one in indices for state in one.last]
    return Packed(
        ids.to(device),
        positions.to(device),
        _mask(part.to(device), prompt.to(device), dtype),
        *(torch.tensor(x, dtype=torch.int64, device=device) for x in (predicts, targets, last)),
    )


@dataclass
class _Indices:
    """The flat indices of a group, see `Packed`."""

    predicts: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)


def _mask(part: Tensor, prompt: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, L, L): 0 where the query (row) sees the key (column), else the dtype's minimum."""
    import torch

    earlier = torch.ones(part.shape[1:] * 2, dtype=torch.bool, device=part.device).tril()
    key = part[:, None, :]
    # Padding attends to padding, because a softmax row without keys is NaN.
    seen = earlier & ((key == part[:, :, None]) | (key == prompt[:, :, None]))
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
