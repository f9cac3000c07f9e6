"""FLUSHALL under a whole waqueue: a hundred thousand queued, workers sending, clients submitting."""

import pytest
import redis

from sessions_app.models import Attempt, DesiredState, Event, InFlight, Message, Session, Status
from sessions_app.queues import keys
from sessions_app.services.pacing import Pacing
from tests.acceptance.stack import LATE, Stack
from tests.factories import job_ids, line
from tests.processes import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

EACH = 1000
NEW = 10
PACE_MS = 700
# Longer than the loss: who forgets when the last one went sends the next one too soon.
LONG_PACE_MS = 20_000
CAP = 5
REBUILD_S = 60


class Crowd:
    """A hundred sessions with a thousand messages each: most rest, and of each kind that sends there are a few."""

    def __init__(self, stack: Stack) -> None:
        paced = Pacing(min_interval_ms=PACE_MS, max_interval_ms=PACE_MS)
        self._stack = stack
        self.resting = [stack.session(f"resting-{at}", desired_state=DesiredState.PAUSED) for at in range(80)]
        self.quick = [stack.session(f"quick-{at}", delay_ms=20) for at in range(5)]
        self.slow = [stack.session(f"slow-{at}", delay_ms=4000) for at in range(5)]
        self.paced = [stack.session(f"paced-{at}", pacing=paced) for at in range(5)]
        self.capped = [stack.session(f"capped-{at}", pacing=Pacing(hourly_cap=CAP)) for at in range(5)]
        self.submitted = 0
        self.submit(EACH)

    @property
    def every(self) -> list[Session]:
        return [*self.resting, *self.quick, *self.slow, *self.paced, *self.capped]

    def submit(self, count: int) -> None:
        """The next messages of every session."""
        for session in self.every:
            self._stack.submit(session, range(self.submitted, self.submitted + count))
        self.submitted += count

    def ledgers(self, sessions: list[Session]) -> list[list[int]]:
        return [self._stack.ledger(session) for session in sessions]


@pytest.mark.timeout(600)
@pytest.mark.fault(9)
def test_a_flushall_with_a_hundred_thousand_queued_changes_nothing_that_anybody_was_promised(stack: Stack) -> None:
    crowd = Crowd(stack)
    assert Message.objects.count() == 100_000
    both = [stack.ready_worker(), stack.ready_worker()]
    wait_until(lambda: stack.workers_listed() == 2, 60, "both workers are listed")
    wait_until(lambda: crowd.ledgers(crowd.capped) == [list(range(CAP))] * 5, 60, "the caps are reached")
    flying = wait_until(lambda: stack.in_flight(crowd.slow), 60, "slow sends are under way")

    rebuilds = Event.objects.filter(kind="queues.rebuilt")
    wait_until(rebuilds.exists, 120, "this Redis is put in order for the first time")
    half_used = stack.session("half-used", pacing=Pacing(hourly_cap=CAP))
    stack.submit(half_used, range(CAP - 2))
    wait_until(lambda: len(stack.ledger(half_used)) == CAP - 2, 60, "a cap is half used")

    patient = stack.session("patient", pacing=Pacing(min_interval_ms=LONG_PACE_MS, max_interval_ms=LONG_PACE_MS))
    stack.submit(patient, range(2))
    wait_until(lambda: stack.ledger(patient) == [0], 60, "the first of a long pace is sent")

    client = redis.Redis.from_url(stack.redis.url)
    began = stack.now()
    client.flushall()
    for _ in range(NEW):
        crowd.submit(1)
    stack.submit(half_used, range(CAP - 2, 2 * CAP))
    wait_until(lambda: rebuilds.count() == 2, 120, "the queues are rebuilt")
    # By the clock of the database: the submits are made meanwhile, however long they take.
    took = (rebuilds.latest("created_at").created_at - began).total_seconds()
    assert took < REBUILD_S, took
    for session in crowd.resting:
        assert job_ids(client, session.name) == line(session)

    # What was under way came back and was written, and whoever sends goes on.
    wait_until(lambda: not InFlight.objects.filter(token__in=flying).exists(), 60, "the sends come back")
    assert set(Attempt.objects.filter(token__in=flying).values_list("outcome", flat=True)) == {"sent"}
    before = [len(ledger) for ledger in crowd.ledgers(crowd.paced)]
    wait_until(
        lambda: all(len(now) > then + 3 for now, then in zip(crowd.ledgers(crowd.paced), before, strict=True)),
        60,
        "paced sessions go on",
    )
    wait_until(lambda: stack.workers_listed() == 2, 60, "both workers are listed again")
    wait_until(lambda: all(len(ledger) == EACH + NEW for ledger in crowd.ledgers(crowd.quick)), 200, "all are sent")

    for ledger in crowd.ledgers(crowd.every):
        assert ledger == list(range(len(ledger))), "something was overtaken, doubled or lost"
    assert crowd.ledgers(crowd.capped) == [list(range(CAP))] * 5
    # What had been sent before the loss counts.
    wait_until(lambda: len(stack.ledger(half_used)) == CAP, 60, "the rest of the cap is used")
    for session in crowd.paced:
        assert min(stack.gaps(session)) >= PACE_MS / 1000
    wait_until(lambda: stack.ledger(patient) == [0, 1], 60, "the long pace goes on")
    (gap,) = stack.gaps(patient)
    assert LONG_PACE_MS / 1000 <= gap < LONG_PACE_MS / 1000 + LATE.total_seconds()
    assert stack.count(Status.UNCERTAIN, Status.FAILED) == 0
    for worker in both:
        assert worker.stop(60) == 0
    stack.assert_in_order_and_once(half_used, CAP)
    for session in (*crowd.every, half_used, patient):
        assert job_ids(client, session.name) == line(session)
    assert len(client.keys(keys.job_key("*"))) == Message.objects.open().count()
    assert rebuilds.count() == 2
