"""Divides the groups of a step into micro-batches: by a number of prompts, and by padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

from minirec.model.sharing import Lengths, Sharing, padded_apart


def micro_batches(
    groups: Sequence[Lengths],
    *,
    prompts: int,
    tokens: int | None,
    sharing: Sharing | None,
    at_least: int = 1,
) -> list[list[int]]:
    """The positions of the groups of each micro-batch. This changes a step only by rounding.

    Without a limit of tokens, the groups stay in order. With one, groups of similar length come
    together, the longest first. A group that is longer than the limit is alone.

    Args:
        groups: lengths of the N groups of one worker.
        prompts: largest number of groups in a micro-batch.
        tokens: largest number of tokens in a micro-batch, including padding; None sets no limit.
        sharing: how the policy reads groups (`Sharing.of`).
        at_least: number of micro-batches, at most N: where another worker has more.
    """
    if tokens is None:
        found = [
            list(range(i, min(i + prompts, len(groups)))) for i in range(0, len(groups), prompts)
        ]
    else:
        found = _filled(groups, prompts=prompts, tokens=tokens, sharing=sharing)
    while len(found) < at_least:
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        whole = found[largest]
        half = len(whole) // 2
        found[largest : largest + 1] = [whole[:half], whole[half:]]
    return found


def _filled(
    groups: Sequence[Lengths], *, prompts: int, tokens: int, sharing: Sharing | None
) -> list[list[int]]:
    longest_first = sorted(range(len(groups)), key=lambda i: (-groups[i][0] - sum(groups[i][1]), i))
    found: list[list[int]] = []
    for number in longest_first:
        room = bool(found) and len(found[-1]) < prompts
        if room and padded([groups[i] for i in (*found[-1], number)], sharing) <= tokens:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def padded(groups: Sequence[Lengths], sharing: Sharing | None) -> int:
    """Tokens of the pass over these groups, including padding."""
    return padded_apart(groups) if sharing is None else sharing.padded(groups)
