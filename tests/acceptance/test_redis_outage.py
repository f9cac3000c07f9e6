"""Redis that is away, silent, slow or torn off under load: workers wait, go on by themselves, and never spin."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import redis

from sessions_app.models import Attempt, DesiredState, Message, Session, Status
from sessions_app.queues import keys
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import LATE, Stack
from tests.factories import job_ids, line
from tests.lengths import outage_s
from tests.processes import Process, cpu_seconds, wait_until
from tests.proxy import Proxy

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

# The waits between two tries reach their longest, 2 s, within the first five seconds: from then on each second of an
# outage is like the one before.
AWAY_S = outage_s(15)
# A worker that waits takes a hundredth of a processor; one that spins takes whatever a busy machine leaves it.
MOST_BUSY = 0.05
# One that sends as a slow Redis lets it takes a tenth.
MOST_AT_WORK = 0.3
PACE_MS = 700
# Longer than the loss: who forgets when the last one went sends the next one too soon.
LONG_PACE_MS = 12_000


@pytest.fixture
def network(stack: Stack) -> Iterator[Proxy]:
    """Have a network between the workers and Redis."""
    with Proxy("127.0.0.1", urlsplit(stack.redis.url).port or 0) as made:
        yield made


def kill(stack: Stack, network: Proxy) -> Callable[[], None]:
    stack.redis.kill()
    return stack.redis.start


def silence(stack: Stack, network: Proxy) -> Callable[[], None]:
    network.is_silent = True

    def end() -> None:
        network.is_silent = False

    return end


def loaded(stack: Stack, each: int, *, count: int = 10) -> list[Session]:
    """Sessions with messages that take a while."""
    made = [stack.session(f"s{number}", delay_ms=30) for number in range(count)]
    for session in made:
        stack.submit(session, range(each))
    return made


def assert_all_are_sent(stack: Stack, sessions: list[Session], each: int) -> None:
    stack.wait_for(len(sessions) * each, Status.SENT, within_s=150)
    for session in sessions:
        stack.assert_in_order_and_once(session, each)
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}


def failures(worker: Process) -> list[int]:
    """How many tries were in vain until something worked again, each time."""
    return [int(count) for count in re.findall(r"works again after (\d+) failures", worker.output)]


def claimed_again(worker: Process) -> list[int]:
    """After how many tries in vain it could claim again, each time."""
    return [int(count) for count in re.findall(r"claiming works again after (\d+) failures", worker.output)]


@pytest.mark.fault(12)
@pytest.mark.parametrize("go_away", [kill, silence])
def test_while_redis_is_away_workers_wait_without_spinning_and_go_on_when_it_is_back(
    go_away: Callable[[Stack, Proxy], Callable[[], None]], stack: Stack, network: Proxy
) -> None:
    sessions = loaded(stack, 100)
    through = network.instead_of(stack.redis.url)
    both = [stack.ready_worker(REDIS_URL=through), stack.ready_worker(REDIS_URL=through)]
    wait_until(lambda: stack.count(Status.SENT) > 100, 60, "they send")
    come_back = go_away(stack, network)
    for session in sessions:
        stack.submit(session, range(100, 120))
    for worker in both:
        wait_until(lambda worker=worker: "tries again" in worker.output, 30, "both notice")
    busy, began = [cpu_seconds(worker.pid) for worker in both], time.monotonic()
    wait_until(lambda: time.monotonic() > began + AWAY_S, AWAY_S + 10, "the outage lasts")
    for worker, before in zip(both, busy, strict=True):
        assert worker.is_running()
        assert cpu_seconds(worker.pid) - before < MOST_BUSY * (time.monotonic() - began)
    assert stack.count(Status.SENT) < 1200
    come_back()
    assert_all_are_sent(stack, sessions, 120)
    for worker in both:
        wait_until(lambda worker=worker: claimed_again(worker), 30, "it says that it claims again")
        # Ever more seldom, up to every second or two.
        assert max(claimed_again(worker)) < AWAY_S + 15
    assert all(worker.is_running() for worker in both)


@pytest.mark.fault(12)
def test_a_redis_that_takes_half_a_second_for_each_command_only_slows_the_work(stack: Stack, network: Proxy) -> None:
    network.latency_s = 0.5
    sessions = loaded(stack, 20)
    worker = stack.ready_worker(REDIS_URL=network.instead_of(stack.redis.url))
    busy, began = cpu_seconds(worker.pid), time.monotonic()
    assert_all_are_sent(stack, sessions, 20)
    assert cpu_seconds(worker.pid) - busy < MOST_AT_WORK * (time.monotonic() - began)
    assert worker.is_running()
    assert "tries again" not in worker.output


def torn(network: Proxy) -> None:
    """Redis hears the first half of a command, and then nothing more."""
    network.tear(b"EVALSHA")


def unanswered(network: Proxy) -> None:
    """Redis does as it was told, and nobody hears of it."""
    network.lose_answer(b"EVALSHA", answered=b"\r\n")


@pytest.mark.fault(12)
@pytest.mark.parametrize("breaks", [torn, unanswered])
def test_connections_to_redis_that_break_in_the_middle_of_a_command_cost_nothing_but_time(
    breaks: Callable[[Proxy], None], stack: Stack, network: Proxy
) -> None:
    sessions = loaded(stack, 100)
    # A rebuild that breaks leaves contents behind, which a reconciliation lets go when nobody has gone on for a minute.
    worker = stack.ready_worker(REDIS_URL=network.instead_of(stack.redis.url), WAQUEUE_RECONCILE_SECONDS="10")
    for number in range(1, 21):
        wait_until(lambda least=30 * number: stack.count(Status.SENT) > least, 60, "it sends")
        breaks(network)
        wait_until(lambda: not network.is_armed, 30, "a connection breaks")
    assert network.broken == 20
    assert_all_are_sent(stack, sessions, 100)
    assert worker.is_running()
    # A connection that breaks is no reason to try in vain again and again: the next one works.
    assert sum(failures(worker)) <= 2 * network.broken
    with redis.Redis.from_url(stack.redis.url) as client:
        wait_until(lambda: not list(client.scan_iter("rq:job:*")), 150, "the mirror is empty")


@pytest.mark.fault(10)
@pytest.mark.parametrize("comes_back_with", ["nothing", "old data"])
def test_a_redis_that_restarts_empty_or_with_old_data_is_put_right_and_nothing_is_sent_again(
    comes_back_with: str, stack: Stack
) -> None:
    resting = stack.session("resting", desired_state=DesiredState.PAUSED)
    stack.submit(resting, range(20))
    sessions = loaded(stack, 100, count=5)
    finished = stack.session("finished")
    stack.submit(finished, range(20))
    paced = stack.session("paced", pacing=Pacing(min_interval_ms=PACE_MS, max_interval_ms=PACE_MS))
    stack.submit(paced, range(10))
    capped = stack.session("capped", pacing=Pacing(hourly_cap=5))
    stack.submit(capped, range(3))
    slow = stack.session("slow", delay_ms=3000)
    # What is put right is put right by them, and not by the reconciliation of the next minute.
    both = [stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="3600") for _ in range(2)]
    wait_until(lambda: stack.count(Status.SENT) > 20, 60, "they send")
    # In the midst of it: who is claimed, who is due when, and whose Redis it is, stands in what is kept, too.
    stack.redis.stop()
    old = stack.redis.folder / "old"
    shutil.copytree(stack.redis.data_dir, old)
    stack.redis.start()
    wait_until(lambda: stack.count(Status.SENT) > 150 and len(stack.ledger(finished)) == 20, 60, "they send")
    wait_until(lambda: stack.ledger(capped) == [0, 1, 2] and stack.ledger(paced), 60, "a cap is half used")
    patient = stack.session("patient", pacing=Pacing(min_interval_ms=LONG_PACE_MS, max_interval_ms=LONG_PACE_MS))
    stack.submit(patient, range(2))
    wait_until(lambda: stack.ledger(patient) == [0], 60, "the first of a long pace is sent")
    stack.submit(slow, range(2))
    flying = wait_until(lambda: stack.in_flight([slow]), 30, "a slow send is under way")
    stack.redis.kill()
    shutil.rmtree(stack.redis.data_dir)
    if comes_back_with == "old data":
        shutil.copytree(old, stack.redis.data_dir)
    for session in (*sessions, resting):
        stack.submit(session, range(100, 110))
    stack.submit(capped, range(3, 8))
    stack.redis.start()
    stack.wait_for(589, Status.SENT, within_s=120)
    for session in sessions:
        stack.assert_in_order_and_once(session, 110)
    for session, count in ((finished, 20), (paced, 10), (patient, 2), (slow, 2), (capped, 5)):
        stack.assert_in_order_and_once(session, count)
    assert min(stack.gaps(paced)) >= PACE_MS / 1000
    (gap,) = stack.gaps(patient)
    assert LONG_PACE_MS / 1000 <= gap < LONG_PACE_MS / 1000 + LATE.total_seconds()
    # Besides those who rest, those above the cap, which counts on; none that was in flight is called uncertain.
    assert stack.count(Status.QUEUED) == 33
    assert Message.objects.count() == 589 + 33
    assert set(Attempt.objects.filter(token__in=flying).values_list("outcome", flat=True)) == {"sent"}
    wait_until(lambda: stack.workers_listed() == 2, 60, "both workers are listed again")
    with redis.Redis.from_url(stack.redis.url) as client:
        wait_until(lambda: job_ids(client, "resting") == line(resting), 90, "who rests has its queue in order")
        left = {keys.job_key(pk) for pk in (*line(resting), *line(capped))}
        wait_until(lambda: {key.decode() for key in client.scan_iter("rq:job:*")} == left, 90, "no other job is left")
    assert all(worker.is_running() for worker in both)
