"""A worker that is told to stop under load: it finishes what is in flight and leaves the rest to others, at once."""

import signal

import pytest
import redis

from sessions_app.models import InFlight, Message, Session, Status, Worker
from sessions_app.queues import keys
from tests.acceptance.engine import Engine, Gate, OneByOne
from tests.acceptance.stack import Stack
from tests.processes import Process, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(transaction=True),
    pytest.mark.fault(8),
    pytest.mark.usefixtures("known_redis"),
]

# So many at once to the engine: those that were claimed beyond it wait in the worker for their turn.
LIMITED = {"WAQUEUE_TRANSPORT_CONCURRENCY": "waha=30"}


def under_load(stack: Stack, engine: Engine, slow: Engine, **environ: str) -> tuple[Process, list[Session], Session]:
    """Have a worker with more to do than it may, and one message that an engine keeps; told to stop in the middle."""
    hanging = slow.session("hanging")
    stack.submit(hanging, range(2))
    served = [engine.session(f"s{number}") for number in range(100)]
    for session in served:
        stack.submit(session, range(10))
    worker = stack.worker(**LIMITED, **environ)
    wait_until(lambda: slow.accepted and len(engine.accepted) > 100, 60, "it is under load")
    worker.send(signal.SIGTERM)
    wait_until(lambda: "claims nothing more" in worker.output, 10, "it drains")
    return worker, served, hanging


def not_yet_due(stack: Stack) -> list[bytes]:
    """The sessions that come due later, by Redis' own clock: a claim that is only forgotten does so after 15 s."""
    client = redis.Redis.from_url(stack.redis.url)
    return client.zrangebyscore(keys.DUE, client.time()[0] * 1000 + 1000, "+inf")


def test_another_goes_on_at_once_while_it_waits_for_what_is_in_flight(stack: Stack, engine: Engine) -> None:
    engine.on_send = OneByOne(0.2)
    with Engine() as slow:
        gate = slow.on_send = Gate()
        worker, served, hanging = under_load(stack, engine, slow)
        stopping = Worker.objects.get()
        assert len(engine.accepted) < 900
        wait_until(lambda: set(not_yet_due(stack)) <= {b"hanging"}, 5, "all the rest is given back")
        other = stack.ready_worker()
        wait_until(lambda: stack.count(Status.SENT) == 1000, 50, "another sends all the rest")
        assert worker.is_running()
        assert [flight.worker_id for flight in InFlight.objects.all()] == [stopping.pk]
        gate.is_open = True
        assert worker.wait(30) == 0
        stack.wait_for(1002, Status.SENT, within_s=30)
        assert slow.ledger(hanging) == [0, 1]
    for session in served:
        assert engine.ledger(session) == list(range(10))
    assert not engine.on_send.overlapping
    assert set(Message.objects.values_list("status", "attempts")) == {(Status.SENT, 1)}
    stopping.refresh_from_db()
    assert stopping.stopped_at is not None
    assert other.is_running()


def test_what_outlasts_the_deadline_is_uncertain_and_nothing_else(stack: Stack, engine: Engine) -> None:
    engine.on_send = OneByOne(0.2)
    with Engine() as slow:
        slow.on_send = Gate()
        worker, served, hanging = under_load(stack, engine, slow, WAQUEUE_DRAIN_SECONDS="3")
        assert worker.wait(30) == 0
        assert not InFlight.objects.exists()
        assert [str(one.session) for one in Message.objects.filter(status=Status.UNCERTAIN)] == ["hanging"]
        sent = stack.count(Status.SENT)
        assert sent == len(engine.accepted) and stack.count(Status.QUEUED) == 1001 - sent
        slow.on_send = None
        stack.ready_worker()
        stack.wait_for(1001, Status.SENT, within_s=60)
        assert slow.ledger(hanging) == [0, 1]
    for session in served:
        assert engine.ledger(session) == list(range(10))
    assert stack.count(Status.UNCERTAIN) == 1
