"""The mailbox of workers that stay up, without Ray: who gets which piece, and when it is done."""

import asyncio

from actors.training.mailbox import Mailbox, Work

FIRST, SECOND = Work("first"), Work("second")


def test_each_worker_gets_a_piece_once():
    async def pieces():
        box = Mailbox(2)
        waiting = asyncio.create_task(box.take(0))
        await asyncio.sleep(0)
        assert not waiting.done()
        await box.put(FIRST)
        assert await waiting == FIRST
        await box.finish(0)
        assert not await box.done(0.01), "the other worker has not begun"
        again = asyncio.create_task(box.take(0))
        assert await box.take(1) == FIRST
        await box.finish(1)
        assert await box.done(0.01)
        assert not again.done()
        await box.put(SECOND)
        assert await again == SECOND
        assert not await box.done(0.01)

    asyncio.run(pieces())


def test_all_do_a_piece_again_that_one_did_not_finish():
    async def pieces():
        box = Mailbox(2)
        for rank in (0, 1):
            await box.join(rank)
        await box.put(FIRST)
        await box.finish(0)
        assert not await box.restarted()
        for rank in (0, 1):  # worker 1 has died, and Ray Train starts both again
            await box.join(rank)
        assert await box.restarted()
        assert await box.take(0) == await box.take(1) == FIRST

    asyncio.run(pieces())


def test_workers_that_start_again_leave_what_is_done():
    async def pieces():
        box = Mailbox(1)
        await box.put(FIRST)
        await box.finish(0)
        await box.join(0)
        taken = asyncio.create_task(box.take(0))
        await asyncio.sleep(0)
        assert not taken.done()
        await box.close()
        assert await taken is None

    asyncio.run(pieces())


def test_ready_when_all_are_there():
    async def pieces():
        box = Mailbox(2)
        await box.join(0)
        await box.join(0)
        assert not await box.ready(0.01)
        await box.join(1)
        assert await box.ready(0.01)

    asyncio.run(pieces())
