"""The worker as operators run it: a real process on real stores, killed, stopped, frozen and cut off."""

import signal
import subprocess
import sys

import pytest
import redis

from sessions_app.models import Attempt, DesiredState, Event, InFlight, Message, Session, Status, Worker
from sessions_app.services import sessions
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import PROJECT, Process, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


def rq(stack: Stack, *arguments: str) -> str:
    """What the stock command of rq prints."""
    command = [sys.executable, "-m", "rq.cli", *arguments, "--url", stack.redis.url]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout


def test_it_serves_a_session_that_did_not_exist_when_it_started(stack: Stack) -> None:
    stack.ready_worker()
    late = stack.session("late")
    stack.submit(late, range(5))
    stack.wait_for(5, Status.SENT, within_s=20)
    stack.assert_in_order_and_once(late, 5)


def test_an_unmodified_rq_lists_it_also_after_redis_was_wiped(stack: Stack) -> None:
    stack.ready_worker()
    wait_until(lambda: "1 workers" in rq(stack, "info"), 20, "rq info lists the worker")
    redis.Redis.from_url(stack.redis.url).flushall()
    wait_until(lambda: "1 workers" in rq(stack, "info"), 30, "rq info lists the worker again")


def test_a_hundred_sessions_are_served_in_order_and_never_two_at_once_in_one(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=5) for number in range(100)]
    for session in served:
        stack.submit(session, range(20))
    stack.ready_worker()
    stack.wait_for(2000, Status.SENT, within_s=120)
    for session in served:
        stack.assert_in_order_and_once(session, 20)
        stack.assert_never_two_at_once(session, 5)


def test_after_flushall_everything_is_sent_once_and_in_order_also_what_came_later(stack: Stack) -> None:
    worker = stack.ready_worker()
    served = [stack.session(f"s{number}", desired_state=DesiredState.PAUSED) for number in range(10)]
    for session in served:
        stack.submit(session, range(100))
    client = redis.Redis.from_url(stack.redis.url)
    client.flushall()
    for session in served:
        stack.submit(session, range(100, 110))
    mirrored = [f"rq:queue:wa:{session.name}" for session in served]
    wait_until(lambda: all(client.llen(key) == 110 for key in mirrored), 30, "the mirror is rebuilt")
    in_rows = [str(pk) for pk in Message.objects.filter(session=served[0]).order_by("seq").values_list("pk", flat=True)]
    assert [job.decode() for job in client.lrange(mirrored[0], 0, -1)] == in_rows

    sessions.act_on_all("resume", actor=ACTOR)
    stack.wait_for(1100, Status.SENT, within_s=120)
    for session in served:
        stack.assert_in_order_and_once(session, 110)
    wait_until(lambda: client.exists(*mirrored) == 0, 10, "the mirror is empty")
    assert worker.is_running()
    assert Event.objects.filter(kind="queues.rebuilt").exists()


@pytest.mark.fault(4)
def test_a_message_whose_worker_was_killed_while_sending_becomes_uncertain_and_its_session_goes_on(
    stack: Stack,
) -> None:
    victim = stack.session("victim", delay_ms=2000)
    holding = stack.session("holding", delay_ms=2000, on_uncertain="hold_session")
    neighbour = stack.session("neighbour")
    stack.submit(victim, range(3))
    stack.submit(holding, range(3))
    worker = stack.worker()
    wait_until(lambda: stack.ledger(victim) == stack.ledger(holding) == [0], 30, "both are being sent")
    worker.kill()

    survivor = stack.worker()
    stack.submit(neighbour, range(50))
    wait_until(lambda: len(stack.ledger(neighbour)) == 50, 20, "nobody else is disturbed")
    stack.wait_for(2, Status.UNCERTAIN, within_s=120)
    wait_until(lambda: stack.ledger(victim) == [0, 1, 2], 30, "the session goes on")
    assert stack.ledger(holding) == [0]
    assert Session.objects.get(name="holding").dispatch.hold == "uncertain"
    assert Event.objects.filter(kind="worker.gone").count() == 1
    assert "session victim: 1 message uncertain" in survivor.output
    assert "session holding: 1 message uncertain" in survivor.output


def test_on_sigterm_what_is_in_flight_comes_back_and_the_rest_stays_queued(stack: Stack) -> None:
    slow = stack.session("slow", delay_ms=1500)
    stack.submit(slow, range(3))
    worker = stack.worker()
    wait_until(lambda: stack.ledger(slow) == [0], 30, "the first is being sent")
    assert worker.stop(30) == 0
    assert stack.count(Status.SENT) == 1
    assert stack.count(Status.QUEUED) == 2
    assert stack.count(Status.UNCERTAIN) == 0
    assert Worker.objects.get().stopped_at is not None
    stack.worker()
    stack.wait_for(3, Status.SENT, within_s=30)
    stack.assert_in_order_and_once(slow, 3)


def test_a_second_signal_ends_it_at_once_and_nothing_is_left_in_flight(stack: Stack) -> None:
    slow = stack.session("slow", delay_ms=30_000)
    stack.submit(slow, range(2))
    worker = stack.worker()
    wait_until(lambda: stack.ledger(slow) == [0], 30, "the first is being sent")
    worker.send(signal.SIGTERM)
    wait_until(lambda: "claims nothing more" in worker.output, 10, "it drains")
    # One that follows too soon counts as the same.
    wait_until(lambda: "stops now" in worker.output or worker.send(signal.SIGTERM), 10, "it stops at once")
    assert worker.wait(15) == 0
    assert stack.count(Status.UNCERTAIN) == 1
    assert stack.count(Status.QUEUED) == 1


def test_burst_sends_what_is_due_and_ends(stack: Stack) -> None:
    session = stack.session("s")
    stack.submit(session, range(30))
    assert stack.worker("--burst").wait(60) == 0
    stack.assert_in_order_and_once(session, 30)


def test_a_limit_of_messages_lets_what_is_in_flight_come_back(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=100) for number in range(40)]
    for session in served:
        stack.submit(session, range(5))
    assert stack.worker("--max-jobs", "60").wait(60) == 0
    assert stack.count(Status.SENT) >= 60
    assert stack.count(Status.UNCERTAIN, Status.SENDING) == 0
    assert not InFlight.objects.exists()


def test_it_obeys_rq_suspend_and_resume(stack: Stack) -> None:
    busy, late = stack.session("busy", delay_ms=20), stack.session("late")
    stack.submit(busy, range(2000))
    stack.ready_worker()
    wait_until(lambda: len(stack.ledger(busy)) > 20, 30, "it sends")
    rq(stack, "suspend")
    wait_until(lambda: "suspended" in rq(stack, "info"), 20, "the worker is shown as suspended")
    wait_until(lambda: not InFlight.objects.exists(), 20, "what was in flight has landed")
    sent = len(stack.ledger(busy))
    stack.submit(late, range(3))
    for _ in range(2):
        beat_at = Worker.objects.get().heartbeat_at
        wait_until(lambda then=beat_at: Worker.objects.get().heartbeat_at > then, 20, "it beats")
    assert stack.ledger(busy) == list(range(sent))
    assert sent < 2000 and stack.ledger(late) == []
    rq(stack, "resume")
    wait_until(lambda: len(stack.ledger(busy)) > sent + 20 and len(stack.ledger(late)) == 3, 30, "both go on")
    stack.assert_in_order_so_far(busy)
    stack.assert_in_order_and_once(late, 3)


def test_a_redis_that_is_killed_and_comes_back_loses_nothing(stack: Stack) -> None:
    session = stack.session("s", delay_ms=20)
    worker = stack.ready_worker()
    stack.submit(session, range(100))
    wait_until(lambda: len(stack.ledger(session)) > 10, 30, "it sends")
    stack.redis.kill()
    stack.submit(session, range(100, 120))
    wait_until(lambda: "tries again" in worker.output, 20, "the worker notices")
    stack.redis.start()
    stack.wait_for(120, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(session, 120)
    assert worker.is_running()


def test_cut_database_connections_lose_nothing_and_send_nothing_twice(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=10) for number in range(20)]
    worker = stack.ready_worker()
    for session in served:
        stack.submit(session, range(60))
    for cut in range(1, 6):
        wait_until(lambda done=cut: stack.count(Status.SENT) > done * 150, 60, "it sends")
        stack.cut_database_connections()
    stack.wait_for(1200, Status.SENT, Status.UNCERTAIN, within_s=120)
    for session in served:
        # Loopback keeps its ledger in the same database: what it could not keep it calls uncertain.
        numbers = stack.ledger(session)
        assert numbers == sorted(set(numbers))
    assert worker.is_running()


def test_two_workers_one_of_them_killed_again_and_again_keep_order_and_lose_nothing(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=200) for number in range(3)]
    hurried = {"WAQUEUE_SEND_SECONDS": "5"}
    both = [stack.ready_worker(**hurried), stack.ready_worker(**hurried)]

    def sending() -> Process | None:
        """Whichever worker has a message in flight just now."""
        owners = Worker.objects.filter(pk__in=InFlight.objects.values("worker_id")).values_list("pid", flat=True)
        return next((worker for worker in both if worker.pid in owners), None)

    submitted = 0
    for _ in range(5):
        for _ in range(30):
            for session in served:
                stack.submit(session, [submitted])
            submitted += 1
        unlucky = wait_until(sending, 60, "somebody is sending")
        assert unlucky is not None
        unlucky.kill()
        unlucky.start()
        wait_until(lambda pid=unlucky.pid: Worker.objects.filter(pid=pid).exists(), 30, "it is back")
    stack.wait_for(3 * submitted, Status.SENT, Status.UNCERTAIN, within_s=240)
    for session in served:
        stack.assert_in_order_and_only_the_uncertain_missing(session, submitted)
        stack.assert_never_two_at_once(session, 200)
    # What a death leaves in doubt is at most one message of each session.
    assert stack.count(Status.UNCERTAIN) <= 15


@pytest.mark.fault("14a")
def test_a_worker_that_was_frozen_before_its_hand_over_does_not_hand_over_after(stack: Stack) -> None:
    served = [stack.session(f"s{number}", delay_ms=500) for number in range(6)]
    # So long may a send take: whoever is frozen is judged the sooner.
    hurried = {"WAQUEUE_SEND_SECONDS": "5"}
    frozen = stack.ready_worker(**hurried)
    stack.judge(**hurried)
    for session in served:
        stack.submit(session, range(30))
    worker_id = Worker.objects.get(pid=frozen.pid).pk
    its_own = Attempt.objects.filter(worker_id=worker_id)
    wait_until(lambda: its_own.filter(outcome="sent").count() > 5, 30, "it sends")

    def holds_some() -> bool:
        """Freeze it, and say whether that caught it with messages in flight; otherwise it goes on."""
        frozen.send(signal.SIGSTOP)
        if InFlight.objects.filter(worker_id=worker_id).count() > 1:
            return True
        frozen.send(signal.SIGCONT)
        return False

    wait_until(holds_some, 30, "it is frozen with messages in flight")
    try:
        stack.wait_for(180, Status.SENT, Status.UNCERTAIN, within_s=180)
        assert its_own.filter(outcome="uncertain").exists(), "it held nothing"
    finally:
        frozen.send(signal.SIGCONT)
    thawed_at = stack.now()
    wait_until(Worker.objects.filter(pid=frozen.pid, heartbeat_at__gt=thawed_at).exists, 30, "it beats again")
    wait_until(lambda: not its_own.filter(outcome="").exists(), 30, "it has nothing left to say")
    for session in served:
        stack.assert_in_order_and_only_the_uncertain_missing(session, 30)
        stack.assert_never_two_at_once(session, 500)
