"""Requests the rollouts of each training step, optionally one step ahead.

With staleness 0, the request is sent when a step begins, and training waits. With staleness 1, the
rollouts of step s + 1 are requested before step s trains, with the adapter of that moment. So the
engines work while the step trains, and the policy learns from rollouts that are one update old.
The first step has no older adapter: steps 0 and 1 both use the initial weights.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from actors.engines.engine import Adapter, Completion
from actors.pool.actor import Call
from actors.pool.handle import PoolHandle
from actors.pool.saved import Replay, save


@dataclass(frozen=True)
class Drawn:
    """Rollouts of one step, and their times in seconds.

    rollouts: each prompt with its completions, in the order of the calls.
    rollout_seconds: from the request to the last completion.
    wait_seconds: how long training waited for them.
    idle_seconds: how long the engines were idle before the request; 0 for the first request.
    """

    rollouts: list[tuple[list[int], list[Completion]]]
    rollout_seconds: float
    wait_seconds: float
    idle_seconds: float

    def times(self, *, more: float) -> dict[str, float]:
        """The times for the log, with the seconds that further rollouts of the step took."""
        return {
            "rollout_seconds": round(self.rollout_seconds + more, 3),
            "wait_seconds": round(self.wait_seconds + more, 3),
            "idle_seconds": round(self.idle_seconds, 3),
        }


class Lookahead:
    """Requests the rollouts of one step after another; at most one request is pending.

    A request uses one adapter and ends before the next is sent, so no step mixes versions. Use it
    from one thread: it also builds the calls, and a tokenizer is not thread-safe.
    """

    def __init__(
        self,
        pool: PoolHandle | Replay,
        calls: Callable[[int], list[Call]],
        *,
        steps: int,
        staleness: int,
        folder: Path | None = None,
    ) -> None:
        """Args:
        calls: builds the calls of a step.
        steps: number of steps.
        staleness: 0 or 1, how many updates old the adapter of the rollouts is.
        folder: keeps the rollouts of each step; None keeps none.
        """
        self._pool = pool
        self._calls = calls
        self._steps = steps
        self._staleness = staleness
        self._folder = folder
        self._pending: Future[Drawn] | None = None
        self._ended: float | None = None

    def take(self, step: int, *, newest: Adapter | None, behind: Adapter | None) -> Drawn:
        """Wait for the rollouts of `step`; with staleness 1, request those of the next step.

        Steps must be taken in order. The pool's deadlines end the wait.

        Args:
            newest: the adapter that the step starts from; None: the base weights.
            behind: the previous adapter; with staleness 1, the first step of an attempt uses it.

        Raises:
            EngineError: `PoolHandle.generate` failed.
        """
        begun = time.monotonic()
        request = self._pending or self._ask(step, behind if self._staleness else newest)
        self._pending = None
        drawn = replace(request.result(), wait_seconds=time.monotonic() - begun)
        if self._staleness and step + 1 < self._steps:
            self._pending = self._ask(step + 1, newest)
        return drawn

    def more(
        self, step: int, calls: list[Call], *, part: str, adapter: Adapter | None
    ) -> list[list[Completion]]:
        """The completions of further prompts of a step whose rollouts were taken.

        Args:
            part: of the name of the file, if the rollouts are kept.

        Raises:
            EngineError: `PoolHandle.generate` failed.
        """
        answers = self._pool.generate(calls, adapter=adapter)
        self._ended = time.monotonic()
        if self._folder is not None:
            save(self._folder, step, calls, answers, part=part)
        return [completions for answer in answers for completions in answer]

    def close(self) -> None:
        """Wait for a pending request and ignore its result."""
        if self._pending is not None:
            self._pending.exception()
            self._pending = None

    def _ask(self, step: int, adapter: Adapter | None) -> Future[Drawn]:
        calls, asked, future = self._calls(step), time.monotonic(), Future[Drawn]()
        idle = 0.0 if self._ended is None else asked - self._ended

        def generate() -> None:
            try:
                answers = self._pool.generate(calls, adapter=adapter)
                self._ended = time.monotonic()
                if self._folder is not None:
                    save(self._folder, step, calls, answers)
                prompts = [prompt for call in calls for prompt in call.prompts]
                completions = [one for answer in answers for one in answer]
                rollouts = list(zip(prompts, completions, strict=True))
                future.set_result(Drawn(rollouts, self._ended - asked, 0, idle))
            except BaseException as error:  # `take` raises it
                future.set_exception(error)

        # A daemon thread: a worker that fails in its step must not wait for the engines.
        threading.Thread(target=generate, name=f"rollouts-{step}", daemon=True).start()
        return future
