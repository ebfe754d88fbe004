"""What engines write in a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minirec.rl.group import Group


@dataclass(frozen=True)
class Written:
    """Rollouts and tokens that engines wrote in a step, for its log.

    forward_tokens: forward-equivalent tokens that the groups of the step do not show. seconds: from
    the first rollouts to the last.
    """

    rollouts: int = 0
    tokens: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Written:
        """All rollouts of groups, which show their cost."""
        rollouts = sum(len(group.completions) for group in groups)
        return cls(rollouts, sum(sum(group.written) for group in groups))

    def __add__(self, more: Written) -> Written:
        return Written(
            self.rollouts + more.rollouts,
            self.tokens + more.tokens,
            self.forward_tokens + more.forward_tokens,
            self.seconds + more.seconds,
        )
