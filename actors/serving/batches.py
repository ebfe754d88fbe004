"""Answers simultaneous calls in one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Found = TypeVar("Found")


class Batches(Generic[Asked, Found]):
    """Calls of a function that takes a list, from coroutines of one event loop.

    A call that finds the function idle runs at once. Calls that arrive while it runs wait, and
    together form the next batch, of at most `largest`. So a batch grows with the load, and nobody
    waits for a batch to fill. The function runs in one thread, so the event loop goes on.
    """

    def __init__(self, function: Callable[[list[Asked]], list[Found]], *, largest: int):
        self.function, self.largest = function, largest
        self._waiting: deque[tuple[Asked, asyncio.Future[Found]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, asked: Asked) -> Found:
        """The function's answer to `asked`; raises what the function raises for its batch."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while batch := self._next():
            asked = [one for one, _ in batch]
            try:
                run = asyncio.get_running_loop().run_in_executor
                found = await run(self._thread, self.function, asked)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), one in zip(batch, found, strict=True):
                    if not future.done():  # its caller may have gone while it was answered
                        future.set_result(one)

    def _next(self) -> list[tuple[Asked, asyncio.Future[Found]]]:
        """The next calls whose callers still wait, oldest first."""
        batch: list[tuple[Asked, asyncio.Future[Found]]] = []
        while self._waiting and len(batch) < self.largest:
            one = self._waiting.popleft()
            if not one[1].done():
                batch.append(one)
        return batch
