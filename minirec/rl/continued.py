"""Rollouts followed by the words of their target, for a frozen LM to read.

It loads no torch, since `minirec plan` counts tokens with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from minirec.rl.chunks import text_tokens
from minirec.rl.group import Group


def continued(
    groups: Sequence[Group],
    *,
    words: Sequence[Sequence[int]] | Mapping[int, Sequence[int]],
    answer: Sequence[int],
) -> list[Group]:
    """The groups with the words of the target after each completion, which ends with the answer
    marker, and after the bare marker as the last completion.

    Args:
        words: tokens of the text of each item.
        answer: token ids of the answer marker.
    """
    return [
        replace(
            group,
            completions=[
                [*completion, *words[group.target]] for completion in (*group.completions, answer)
            ],
            written=[0] * (len(group.completions) + 1),
        )
        for group in groups
    ]


def copied_share(groups: Sequence[Group], *, answer: int) -> float:
    """Sum over groups of the mean share of the written text whose tokens are in the prompt too.

    If it rises during a training, the policy copies titles of the history. A rollout without a text
    counts 0. `answer` is the number of tokens of the answer marker.
    """
    total = 0.0
    for group in groups:
        known, shares = set(group.prompt), []
        for completion, written in zip(group.completions, group.written, strict=True):
            text = completion[: min(written, text_tokens(completion, answer=answer))]
            shares.append(sum(token in known for token in text) / max(1, len(text)))
        total += sum(shares) / max(1, len(shares))
    return total
