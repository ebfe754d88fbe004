"""What steps on the same rollouts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.training.order import of_all_ranks
from minirec.rl.group import Choice, Group


def with_choices(
    groups: Sequence[Group], own: Mapping[int, Choice], *, replays: int
) -> list[Group]:
    """The groups of a step, with the choices of the first step on their rollouts.

    All ranks must call it. The choices are in no checkpoint: one comes before new rollouts only.

    Args:
        own: by position in the share of this rank.
        replays: steps on the same rollouts.
    """
    if replays == 1 or groups[0].choice is not None:
        return [*groups]
    found = of_all_ranks([own[number] for number in sorted(own)])
    return [replace(group, choice=one) for group, one in zip(groups, found, strict=True)]
