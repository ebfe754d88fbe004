"""Ray Train workers that stay up for several pieces of work, which come through a mailbox.

A worker takes seconds to start: trials of a few dozen steps would spend half of their time on it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray import ObjectRef

Loop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """A piece of work: reference to (loop, argument), the body of Ray Train workers.

    Only they resolve it: the mailbox would load torch for it.
    """

    call: ObjectRef


class Mailbox:
    """An actor that hands one piece of work after the other to all workers.

    Workers that Ray Train has started again get the piece that was under way once more; how much
    of it is done already is the affair of its loop.
    """

    def __init__(self, workers: int) -> None:
        """`workers` all have to finish a piece."""
        self._workers = workers
        self._work: Work | None = None
        self._joined: list[int] = []
        self._finished: set[int] = set()
        self._closed = False
        self._changed = asyncio.Condition()

    async def join(self, rank: int) -> None:
        """A worker is there, for the first time or again."""
        async with self._changed:
            self._joined.append(rank)
            if len(self._finished) < self._workers:
                self._finished.discard(rank)
            self._changed.notify_all()

    async def take(self, rank: int) -> Work | None:
        """The piece that this worker has to do, once there is one; None: there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._waits_for(rank))
            return None if self._closed else self._work

    def _waits_for(self, rank: int) -> bool:
        return self._work is not None and rank not in self._finished

    async def finish(self, rank: int) -> None:
        """The worker has done the piece that it took."""
        async with self._changed:
            self._finished.add(rank)
            self._changed.notify_all()

    async def put(self, work: Work) -> None:
        """The next piece, when the one before is done."""
        async with self._changed:
            self._work, self._finished = work, set()
            self._changed.notify_all()

    async def ready(self, seconds: float) -> bool:
        """Whether all workers are there, within some seconds."""
        return await self._within(seconds, lambda: len({*self._joined}) == self._workers)

    async def restarted(self) -> bool:
        """Whether a worker has been started again."""
        return len(self._joined) > self._workers

    async def done(self, seconds: float) -> bool:
        """Whether all workers have finished the piece, within some seconds."""
        return await self._within(seconds, lambda: len(self._finished) == self._workers)

    async def _within(self, seconds: float, holds: Callable[[], bool]) -> bool:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(holds), seconds)
            except TimeoutError:
                return False
            return True

    async def close(self) -> None:
        """Let the workers end, each after the piece that it has taken."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()


def work_loop(config: dict[str, Any]) -> None:
    """Body of Ray Train workers that do what is in ``config["mailbox"]`` until it is closed."""
    import ray
    import torch
    import torch.distributed as dist

    mailbox, rank = config["mailbox"], dist.get_rank()
    linear = torch.nn.functional.linear
    _asked(mailbox.join.remote(rank))
    while (work := _asked(mailbox.take.remote(rank))) is not None:
        loop, argument = ray.get(work.call)
        loop(argument)
        # ZeRO 3 leaves its own there, which rounds in another way.
        torch.nn.functional.linear = linear
        gc.collect()  # engines of DeepSpeed refer to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _asked(mailbox.finish.remote(rank))


def _asked(answer: ObjectRef) -> Any:
    """What the mailbox answers, or None if it is gone: for no work is a worker started again."""
    import ray

    try:
        return ray.get(answer)
    except ray.exceptions.RayActorError:
        return None
