"""Simultaneous calls are answered in batches, each with its own answer."""

from __future__ import annotations

import asyncio
import threading

import pytest

from actors.serving.batches import Batches


class Function:
    """Doubles numbers once the test lets it; remembers its batches."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, numbers):
        self.batches.append(numbers)
        assert self.go.wait(10)
        if -1 in numbers:
            raise ValueError("minus one")
        return [2 * number for number in numbers]


async def started(function, count=1):
    while len(function.batches) < count:
        await asyncio.sleep(0.001)


def test_calls_that_wait_become_one_batch():
    async def body():
        function = Function()
        batches = Batches(function, largest=3)
        first = asyncio.create_task(batches(0))
        await started(function)
        others = [asyncio.create_task(batches(number)) for number in range(1, 6)]
        await asyncio.sleep(0.01)
        assert function.batches == [[0]]  # the others wait for it
        function.go.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
        assert function.batches == [[0], [1, 2, 3], [4, 5]]
        assert await batches(7) == 14

    asyncio.run(body())


def test_an_error_reaches_the_calls_of_its_batch_alone():
    async def body():
        function = Function()
        batches = Batches(function, largest=2)
        first = asyncio.create_task(batches(0))
        await started(function)
        others = [asyncio.create_task(batches(number)) for number in (-1, 1, 2)]
        await asyncio.sleep(0.01)
        function.go.set()
        assert await first == 0
        for failed in others[:2]:
            with pytest.raises(ValueError, match="minus one"):
                await failed
        assert await others[2] == 4

    asyncio.run(body())


def test_a_call_that_was_given_up_is_not_computed():
    async def body():
        function = Function()
        batches = Batches(function, largest=4)
        first = asyncio.create_task(batches(0))
        await started(function)
        gone, stays = (asyncio.create_task(batches(number)) for number in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        function.go.set()
        assert [await first, await stays] == [0, 4]
        assert function.batches == [[0], [2]]

    asyncio.run(body())
