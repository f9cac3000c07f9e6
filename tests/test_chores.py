"""The child process in which a worker has long acts done: where none can be begun, the worker goes on."""

import asyncio

import pytest

from sessions_app.worker import children, chores


def test_a_machine_that_can_begin_no_process_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> int:
        stopping, tries = asyncio.Event(), 0

        async def fail(*arguments: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 2:
                stopping.set()
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(children, "start", fail)
        monkeypatch.setattr(chores.tasks, "enqueue_abandoned", lambda: 1)
        async with asyncio.timeout(30):
            await chores.run_forever(stopping)
        return tries

    assert asyncio.run(act()) == 2
