"""A prompt with its rollouts: written by engines, read by the policy and the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Unit = Literal["tokens", "groups"]
"""What the step divides a loss by: their number in the global batch."""


@dataclass(frozen=True)
class Choice:
    """The best and the worst rollout of a group, whether their rewards are far enough apart for a
    pair, and whether the group is dead."""

    best: int
    worst: int
    apart: bool
    dead: bool


@dataclass(frozen=True)
class Group:
    """A prompt with its G rollouts, all as token ids; G may be 0.

    completions: each ends with the answer marker, which `Encoder.finish` appends if the engine did
    not write it.
    written: number of tokens of each completion that the engine wrote. Only these enter the token
    loss.
    excluded: items that are not ranked against the target.
    rollout_logprobs: log-probabilities of the written tokens when the engine wrote them.
    rewards: of the rollouts, if known.
    history, sample_id: of the sample, for the collaborative prior.
    following: later items of the user that are relevant too (`reward.horizon`).
    choice: of the first step on these rollouts; None in that step.
    labelled, weight: a group without a label has a pseudo-target, and a weight of its losses.
    inner: for `training.credit` vine, the values of each rollout at its C - 1 places between two
    chunks.
    """

    prompt: list[int]
    completions: list[list[int]]
    written: list[int]
    excluded: list[int]
    target: int
    rollout_logprobs: list[list[float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    sample_id: int = -1
    following: list[int] = field(default_factory=list)
    choice: Choice | None = None
    labelled: bool = True
    weight: float = 1.0
    inner: list[list[float]] = field(default_factory=list)

    @property
    def sequences(self) -> list[list[int]]:
        return [self.prompt + completion for completion in self.completions]

    @property
    def lengths(self) -> tuple[int, list[int]]:
        """Number of tokens of the prompt, and of each completion."""
        return len(self.prompt), [len(completion) for completion in self.completions]

    @property
    def pair(self) -> Group:
        """The group with its first two rollouts."""
        return replace(
            self,
            completions=self.completions[:2],
            written=self.written[:2],
            rollout_logprobs=self.rollout_logprobs[:2],
        )


def joined(group: Group, more: Group) -> Group:
    """A group with further rollouts of its prompt."""
    return replace(
        group,
        completions=group.completions + more.completions,
        written=group.written + more.written,
        rollout_logprobs=group.rollout_logprobs + more.rollout_logprobs,
    )


def filled(group: Group, size: int) -> Group:
    """A group with `size` rollouts: its own again and again, with no token written again."""
    own = len(group.completions)
    again = [group.completions[number % own] for number in range(own, size)]
    return joined(
        group,
        replace(
            group, completions=again, written=[0] * len(again), rollout_logprobs=[[] for _ in again]
        ),
    )


def written_tokens(groups: Sequence[Group]) -> tuple[list[int], list[int]]:
    """The W tokens that the engine wrote, among the completion tokens of all groups.

    Returns:
        Their positions in the order of `Policy.forward`, and the rollout of each.
    """
    positions: list[int] = []
    rollouts: list[int] = []
    offset = number = 0
    for group in groups:
        for completion, written in zip(group.completions, group.written, strict=True):
            positions += range(offset, offset + written)
            rollouts += [number] * written
            offset += len(completion)
            number += 1
    return positions, rollouts
