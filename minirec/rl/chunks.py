"""The chunks that the written text of a rollout is cut into, for `minirec.rl.credit`.

It loads no torch, since `minirec plan` counts tokens with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from minirec.rl.group import Group


def chunk_bounds(tokens: int, *, chunks: int) -> list[int]:
    """The C - 1 places where `tokens` are cut into C parts of nearly equal length."""
    return [tokens * number // chunks for number in range(1, chunks)]


def text_tokens(completion: Sequence[int], *, answer: int) -> int:
    """Tokens of a completion before its answer marker of `answer` tokens."""
    return max(0, len(completion) - answer)


def prefix(completion: Sequence[int], *, number: int, chunks: int, answer: int) -> list[int]:
    """The first `number` of C chunks of a completion with a marker of `answer` tokens."""
    text = text_tokens(completion, answer=answer)
    return [*completion[: chunk_bounds(text, chunks=chunks)[number - 1]]]


def places(
    groups: Sequence[Group], *, chunks: int, answer: int
) -> dict[tuple[int, tuple[int, ...]], tuple[int, int]]:
    """The different places between two chunks, of all groups.

    Returns:
        For each group number and text up to the place, the first rollout j and number of chunks c
        that have it. Other groups may have the same text: it has another meaning after another
        prompt.
    """
    found: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    for row, group in enumerate(groups):
        for rollout, completion in enumerate(group.completions):
            for number in range(1, chunks):
                cut = prefix(completion, number=number, chunks=chunks, answer=answer)
                found.setdefault((row, tuple(cut)), (rollout, number))
    return found


def inner_values(
    groups: Sequence[Group],
    values: Mapping[tuple[int, tuple[int, ...]], float],
    *,
    chunks: int,
    answer: int,
) -> list[Group]:
    """The groups with the values of their `places` as `Group.inner`."""

    def of(row: int, completion: Sequence[int]) -> list[float]:
        numbers = range(1, chunks)
        cuts = [prefix(completion, number=n, chunks=chunks, answer=answer) for n in numbers]
        return [values[row, tuple(cut)] for cut in cuts]

    return [
        replace(group, inner=[of(row, completion) for completion in group.completions])
        for row, group in enumerate(groups)
    ]


def prefixes(
    groups: Sequence[Group], *, number: int, chunks: int, answer: Sequence[int]
) -> list[Group]:
    """The groups with an answer forced after the first `number` chunks of each rollout."""

    def cut(completion: Sequence[int]) -> list[int]:
        return [*prefix(completion, number=number, chunks=chunks, answer=len(answer)), *answer]

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
