"""A message that kills whoever sends it: tried alone, set aside in the end, and nobody else is blamed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread

import pytest

from sessions_app.models import Event, Message, Session, Status
from sessions_app.services import messages, sessions
from sessions_app.services.worklist import items
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import Process, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(23)]

# Whoever hands over a message that says so dies.
LETHAL = 666
KILLS = {"WAQUEUE_TEST_CRASH_AT": "send: handing over", "WAQUEUE_TEST_CRASH_ON": f"'{LETHAL}'"}
# No sooner is a worker that was started anew steady enough to judge.
SHORT = {"WAQUEUE_SEND_SECONDS": "20"}


@contextmanager
def supervised(worker: Process) -> Iterator[list[int]]:
    """Start the worker again whenever it has died, as a supervisor would; have the list of the dead."""
    dead: list[int] = []
    over = Flag()

    def watch() -> None:
        while not over.wait(0.1):
            if not worker.is_running():
                dead.append(worker.pid)
                worker.start()

    watching = Thread(target=watch)
    watching.start()
    try:
        yield dead
    finally:
        over.set()
        watching.join()


def in_flight_of_a_worker_that_dies(stack: Stack, poisoned: Session, neighbours: list[Session]) -> Process:
    """Start a worker that sends for all `neighbours`, then give it the poison: all are in flight as it dies."""
    worker = stack.ready_worker(**KILLS, **SHORT)
    for neighbour in neighbours:
        stack.submit(neighbour, [0])
    wait_until(lambda: all(stack.ledger(one) == [0] for one in neighbours), 60, "all neighbours are being sent")
    stack.submit(poisoned, [0, LETHAL, 2])
    wait_until(lambda: not worker.is_running(), 30, "the poison kills the worker")
    for neighbour in neighbours:
        # They were slow only so that they are in flight together.
        sessions.update(neighbour, actor=ACTOR, config={"delay_ms": 0})
    return worker


def test_a_poison_is_tried_alone_and_set_aside_and_its_fifty_neighbours_all_arrive(stack: Stack) -> None:
    neighbours = [stack.session(f"s{number}", on_uncertain="resend", delay_ms=15_000) for number in range(50)]
    poisoned = stack.session("poisoned", on_uncertain="resend")
    worker = in_flight_of_a_worker_that_dies(stack, poisoned, neighbours)
    with supervised(worker) as dead:
        stack.wait_for(52, Status.SENT, within_s=240)
        wait_until(lambda: stack.count(Status.UNCERTAIN), 60, "the poison is set aside")
        poison = Message.objects.get(status=Status.UNCERTAIN)
        assert (poison.session_id, poison.text, poison.error_class) == (poisoned.pk, str(LETHAL), "poison")
        assert poison.deaths == 3
        # Only the first death took a worker with it.
        assert len(dead) == 1
    assert stack.ledger(poisoned) == [0, 2]
    for neighbour in neighbours:
        assert set(stack.ledger(neighbour)) == {0}
    assert not Message.objects.filter(status=Status.SENT).exclude(deaths=0).exists()
    assert list(Event.objects.filter(kind="message.poison").values_list("message_id", flat=True)) == [poison.pk]
    assert f"session poisoned: message {poison.pk} is set aside" in worker.output
    assert [item.session for item in items() if item.kind == "poison"] == ["poisoned"]


def test_a_person_who_sends_it_again_has_it_tried_alone_and_is_told_in_the_end(stack: Stack) -> None:
    poisoned, neighbour = stack.session("poisoned"), stack.session("neighbour", delay_ms=15_000)
    worker = in_flight_of_a_worker_that_dies(stack, poisoned, [neighbour])
    poison = Message.objects.get(text=str(LETHAL))

    def send_again() -> None:
        messages.resolve(poison.pk, outcome="resend", actor=ACTOR)

    def has_died(times: int) -> bool:
        poison.refresh_from_db()
        return poison.status == Status.UNCERTAIN and poison.deaths == times

    with supervised(worker) as dead:
        # By the default policy no machine sends either of them again, and both are counted.
        wait_until(lambda: has_died(1), 120, "the worker's death is found")
        stack.wait_for(2, Status.UNCERTAIN, within_s=60)
        assert Message.objects.get(session=neighbour).deaths == 1
        wait_until(lambda: stack.ledger(poisoned) == [0, 2], 60, "its session goes on")
        for times in (2, 3, 4):
            send_again()
            wait_until(lambda so_often=times: has_died(so_often), 60, "it is tried alone and dies")
            assert poison.error_class == ("poison" if times >= 3 else "uncertain")
        assert poison.attempts == 4
        messages.resolve(Message.objects.get(session=neighbour).pk, outcome="resend", actor=ACTOR)
        wait_until(lambda: stack.ledger(neighbour) == [0, 0], 60, "the neighbour is tried alone")
        come_through = Message.objects.filter(session=neighbour, status=Status.SENT)
        wait_until(come_through.exists, 60, "it comes through")
        # After the first death no worker died any more.
        assert len(dead) == 1
    worker.kill()
    stack.worker()
    send_again()
    stack.wait_for(4, Status.SENT, within_s=120)
    poison.refresh_from_db()
    assert (poison.status, poison.deaths) == (Status.SENT, 0)
    assert stack.ledger(poisoned) == [0, 2, LETHAL]
