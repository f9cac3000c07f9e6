"""What is asked for sessions that are held: an engine that hangs keeps no other's sessions waiting."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from sessions_app.models import Event, ObservedState, Session
from sessions_app.queues.connection import deployment_id
from sessions_app.queues.dispatch import DispatchQueues
from sessions_app.transports import registry
from sessions_app.transports.base import Observation, Outgoing, Transport
from sessions_app.transports.waha import WahaTransport
from sessions_app.worker.fence import Verdict, Waiting
from sessions_app.worker.sender import Sender
from sessions_app.worker.waits import Waits
from tests.dispatch_lab import claimed, in_thread, session_with
from tests.processes import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(24)]

MANY = 50


class Engines(Transport):
    """Engines of which one hangs until it is let go."""

    name = "engines"
    title = "Engines"
    asked: ClassVar[Counter[str]] = Counter()
    at_once: ClassVar[Counter[str]] = Counter()
    let_go: ClassVar[asyncio.Event]

    @classmethod
    def engine(cls, config: dict[str, Any]) -> str:
        """Its own name."""
        return str(config["engine"])

    async def send(self, outgoing: Outgoing) -> str:
        """Nothing is sent here."""
        raise NotImplementedError

    async def probe(self, session_name: str, config: dict[str, Any]) -> Observation:
        """Works, if it does not hang."""
        self.asked[session_name] += 1
        if config["engine"] == "hanging":
            self.at_once["now"] += 1
            self.at_once["most"] = max(self.at_once["most"], self.at_once["now"])
            await self.let_go.wait()
            self.at_once["now"] -= 1
        return Observation(ObservedState.WORKING)


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have these engines."""
    monkeypatch.setattr(registry, "_TRANSPORTS", dict(registry._TRANSPORTS))
    registry.register(Engines)
    yield
    Engines.asked.clear()
    Engines.at_once.clear()


def held(name: str, engine: str, session_id: int) -> Waiting:
    return Waiting(
        claimed(name)[0], Verdict.HELD, session_id=session_id, transport="engines", config={"engine": engine},
        hold="not_connected",
    )  # fmt: skip


def with_waits(act: Callable[[Waits], Any]) -> None:
    async def run() -> None:
        Engines.let_go = asyncio.Event()
        queues = DispatchQueues(await in_thread(deployment_id), "worker")
        waits = Waits(uuid.uuid4(), queues, Sender())
        try:
            await act(waits)
        finally:
            waits.cancel()
            await waits.close()
            await queues.close()

    asyncio.run(run())


def test_a_session_is_probed_at_once_while_very_many_of_another_engine_wait_for_theirs() -> None:
    session, _ = session_with(name="well")
    Session.objects.update(observed_state=ObservedState.STOPPED)

    async def act(waits: Waits) -> None:
        for number in range(MANY):
            waits.delay_ms(held(f"s{number}", "hanging", 1_000_000 + number))
        waits.delay_ms(held("well", "well", session.pk))

        async def is_written() -> bool:
            return await in_thread(Event.objects.filter(kind="session.state_changed", session=session).exists)

        await until(is_written, 10, "the other engine has answered")
        assert Engines.at_once["most"] < MANY

    with_waits(act)


def test_while_a_session_s_probe_has_not_begun_no_other_is_begun_for_it() -> None:
    async def act(waits: Waits) -> None:
        for _ in range(10):
            for number in range(MANY):
                waits.delay_ms(held(f"s{number}", "hanging", 1_000_000 + number))
        Engines.let_go.set()
        await until(lambda: not waits.has_chores, 20, "all are asked")
        assert set(Engines.asked.values()) == {1}

    with_waits(act)


def test_news_of_a_session_whose_probe_has_begun_has_it_probed_again() -> None:
    async def act(waits: Waits) -> None:
        waits.delay_ms(held("s", "hanging", 1_000_000))
        await until(lambda: Engines.asked["s"], 5, "it is asked")
        waits.delay_ms(held("s", "hanging", 1_000_000))
        Engines.let_go.set()
        await until(lambda: not waits.has_chores, 5, "all are asked")
        assert Engines.asked["s"] == 2

    with_waits(act)


def test_the_engine_of_a_session_on_waha_is_its_address() -> None:
    assert WahaTransport.engine({"base_url": "http://127.0.0.1:3000"}) == "http://127.0.0.1:3000"
