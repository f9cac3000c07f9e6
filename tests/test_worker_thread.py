"""Synchronous code beside the loop, and how it ends with its worker."""

import asyncio
import contextlib
import threading

from sessions_app.worker.thread import Thread
from tests.processes import until


def test_a_thread_ends_once_what_it_does_has_ended_also_where_nobody_waits_for_that_any_more() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def act() -> None:
        begun.set()
        may_end.wait(30)

    async def run() -> bool:
        thread = Thread("test")
        running = asyncio.create_task(thread.run(act))
        await until(begun.is_set, 10, "it runs")
        behind = asyncio.create_task(thread.run(act))
        await asyncio.sleep(0)
        for task in (running, behind):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        ending = asyncio.create_task(thread.end())
        await asyncio.wait([ending], timeout=0.05)
        was_waiting = not ending.done()
        may_end.set()
        await ending
        return was_waiting

    assert asyncio.run(run())


def test_what_goes_wrong_in_it_keeps_nobody_from_ending() -> None:
    def act() -> None:
        raise ValueError

    async def run() -> None:
        thread = Thread("test")
        with contextlib.suppress(ValueError):
            await thread.run(act)
        await thread.end()
        await Thread("idle").end()

    asyncio.run(run())
