"""A prompt with its rollouts: what engines write, the policy reads and the losses compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Group:
    """A prompt with its G rollouts, all as token ids; G may be 0.

    Completions end with the answer marker, which is appended where the engine did not write it
    (`Encoder.finish`). Of each, the engine wrote the first `written` tokens, which alone enter the
    token loss; rollout_logprobs holds their log-probabilities at that time. `excluded` items do
    not compete with the target. rewards holds those of the rollouts, where known.
    """

    prompt: list[int]
    completions: list[list[int]]
    written: list[int]
    excluded: list[int]
    target: int
    rollout_logprobs: list[list[float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @property
    def sequences(self) -> list[list[int]]:
        """The prompt with each of its completions."""
        return [self.prompt + completion for completion in self.completions]

    @property
    def lengths(self) -> tuple[int, list[int]]:
        """Number of tokens of the prompt and of each completion."""
        return len(self.prompt), [len(completion) for completion in self.completions]


def written_tokens(groups: Sequence[Group]) -> tuple[list[int], list[int]]:
    """The W tokens that the engine wrote, among the completion tokens of all groups.

    Returns:
        Their positions in the order of `Policy.forward`, and for each the number of its rollout.
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
