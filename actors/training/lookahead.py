"""The rollouts of each training step, asked for in time.

With staleness 0 the pool is asked when a step begins, and training waits. With staleness 1 the
rollouts of step s + 1 are asked for before step s trains, with the adapter of that moment, so the
engines work while the step trains, and each policy learns from rollouts that are one update old.
Those of the first step have no older adapter: steps 0 and 1 are both drawn with the weights that
training starts from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from actors.engines.engine import Adapter, Completion
from actors.pool.pool import Call, PoolHandle


@dataclass(frozen=True)
class Drawn:
    """Rollouts of one step, and the seconds that they took.

    rollouts: each prompt with its completions, in the order of the calls.
    rollout_seconds: from the request to the last completion.
    wait_seconds: that training stood still for them.
    idle_seconds: that the engines had nothing to do before the request; 0 for the first one.
    """

    rollouts: list[tuple[list[int], list[Completion]]]
    rollout_seconds: float
    wait_seconds: float
    idle_seconds: float


@dataclass(frozen=True)
class _Request:
    calls: list[Call]
    asked: float
    answer: Future[tuple[list[list[list[Completion]]], float]]


class Lookahead:
    """Asks the pool for one step after another; one request is under way at a time.

    A call carries one adapter and a request is answered whole before the next is sent, so no step
    mixes versions. For one thread, which makes the calls too: tokenizers bear no second one.
    """

    def __init__(
        self,
        pool: PoolHandle,
        calls: Callable[[int], list[Call]],
        *,
        steps: int,
        staleness: int,
    ) -> None:
        """Args:
        calls: the calls of a step.
        steps: number of steps; nothing is asked for beyond the last.
        staleness: 0 or 1, updates between the adapter of the rollouts and that of their step.
        """
        self._pool = pool
        self._calls = calls
        self._steps = steps
        self._staleness = staleness
        self._pending: _Request | None = None
        self._ended: float | None = None

    def take(self, step: int, *, newest: Adapter | None, behind: Adapter | None) -> Drawn:
        """Wait for the rollouts of `step`; with staleness 1, have the next ones drawn meanwhile.

        Steps come in order. The pool's deadlines end the wait.

        Args:
            newest: the adapter that the step starts from; None: the base weights.
            behind: the one before, whose rollouts an attempt that starts here takes first.

        Raises:
            EngineError: as `PoolHandle.generate`, also if that failed in the background.
        """
        begun = time.monotonic()
        request = self._pending or self._ask(step, behind if self._staleness else newest)
        self._pending = None
        answers, ended = request.answer.result()
        waited = time.monotonic() - begun
        idle = 0.0 if self._ended is None else request.asked - self._ended
        self._ended = ended
        if self._staleness and step + 1 < self._steps:
            self._pending = self._ask(step + 1, newest)
        prompts = [prompt for call in request.calls for prompt in call.prompts]
        completions = [one for answer in answers for one in answer]
        return Drawn(
            list(zip(prompts, completions, strict=True)),
            rollout_seconds=ended - request.asked,
            wait_seconds=waited,
            idle_seconds=idle,
        )

    def close(self) -> None:
        """Wait until nothing is under way, for a training that ends early; whatever it brings."""
        if self._pending is not None:
            self._pending.answer.exception()
            self._pending = None

    def _ask(self, step: int, adapter: Adapter | None) -> _Request:
        request = _Request(self._calls(step), time.monotonic(), Future())
        pool = self._pool

        def generate() -> None:
            try:
                answers = pool.generate(request.calls, adapter=adapter)
                request.answer.set_result((answers, time.monotonic()))
            except BaseException as error:  # raised again where the step waits
                request.answer.set_exception(error)

        # A daemon: a worker that fails in its step must not wait for the engines to end.
        threading.Thread(target=generate, name=f"rollouts-{step}", daemon=True).start()
        return request
