"""The chunks that the written text of a rollout is cut into, for `minirec.rl.credit`.

It loads no torch, since `minirec plan` counts tokens with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minirec.rl.group import Group


def chunk_bounds(tokens: int, *, chunks: int) -> list[int]:
    """The C - 1 places where `tokens` are cut into C parts of nearly equal length."""
    return [tokens * number // chunks for number in range(1, chunks)]


def text_tokens(completion: Sequence[int], *, answer: int) -> int:
    """Tokens of a completion before its answer marker of `answer` tokens."""
    return max(0, len(completion) - answer)


def prefixes(
    groups: Sequence[Group], *, number: int, chunks: int, answer: Sequence[int]
) -> list[Group]:
    """The groups with an answer forced after the first `number` chunks of each rollout."""

    def cut(completion: Sequence[int]) -> list[int]:
        text = text_tokens(completion, answer=len(answer))
        return [*completion[: chunk_bounds(text, chunks=chunks)[number - 1]], *answer]

    return [
        replace(group, completions=[*map(cut, group.completions)], written=[0] * len(group.written))
        for group in groups
    ]


def token_chunks(groups: Sequence[Group], *, chunks: int, answer: int) -> list[int]:
    """The chunk of each written token (W,); a written answer marker is in the last one."""
    return [
        sum(bound <= token for bound in chunk_bounds(text, chunks=chunks))
        for group in groups
        for completion, written in zip(group.completions, group.written, strict=True)
        for text in [text_tokens(completion, answer=answer)]
        for token in range(written)
    ]
