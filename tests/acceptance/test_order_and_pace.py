"""Order and pace as sessions have them set: hand-overs of real workers, by the ledger and by PostgreSQL's clock."""

from collections import Counter
from datetime import datetime, timedelta

import pytest
import redis
from aiohttp import web
from django.db.models import F

from sessions_app.models import Attempt, Priority, Session, SessionDispatch, Status
from sessions_app.queues import keys, mirror
from sessions_app.services.pacing import Pacing
from tests import waha_stub
from tests.acceptance.engine import Engine, Gate
from tests.acceptance.stack import LATE, Stack, seconds_between
from tests.api_client import ApiClient
from tests.processes import wait_until
from tests.waha_stub import Sent, WahaStub

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


def every(least_ms: int, most_ms: int | None = None) -> Pacing:
    """The pace of a message every so many milliseconds, or at random up to `most_ms`."""
    return Pacing(min_interval_ms=least_ms, max_interval_ms=most_ms or least_ms)


def fenced_at(session: Session) -> list[datetime]:
    """When each try of a session was decided, by PostgreSQL's clock."""
    return list(Attempt.objects.filter(session_id=session.pk).order_by("fenced_at").values_list("fenced_at", flat=True))


class NotTheThird:
    """A behaviour: of each session's tries, every third is refused for now."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()

    async def __call__(self, stub: WahaStub, request: web.Request) -> web.StreamResponse:
        sent = await Sent.of(request)
        name = sent.body["session"]
        self._tries[name] += 1
        if self._tries[name] % 3:
            return await waha_stub.healthy(stub, request)
        stub.arrived.append(sent)
        return web.json_response({"message": "not now"}, status=429)


def test_what_the_engine_refuses_for_now_is_overtaken_by_nothing_while_it_waits(stack: Stack, engine: Engine) -> None:
    engine.on_send = NotTheThird()
    both = [stack.ready_worker(), stack.ready_worker()]
    served = [engine.session(f"s{number}") for number in range(8)]
    for session in served:
        stack.submit(session, range(6))

    def are_sent() -> bool:
        """Have all sessions looked at now, whatever they wait for, and say whether all is sent."""
        mirror.signal([session.name for session in served])
        return stack.count(Status.SENT) == 48

    wait_until(are_sent, 120, "all are sent")
    for session in served:
        assert engine.ledger(session) == list(range(6))
        tries = [int(sent.text) for sent in engine.arrived if sent.body["session"] == session.name]
        # Eight tries, and of the third and the sixth it was said that they come again.
        assert tries == [0, 1, 2, 2, 3, 4, 4, 5]
    assert Attempt.objects.filter(outcome="retry").count() == 16
    assert Attempt.objects.values("worker_id").distinct().count() == len(both)


def test_high_priority_goes_next_at_the_pace_of_its_session(stack: Stack, engine: Engine) -> None:
    pace_ms = 500
    session = engine.session("s", pacing=every(pace_ms))
    stack.submit(session, range(50))
    gate = engine.on_send = Gate(held=1)
    stack.ready_worker()
    wait_until(lambda: engine.ledger(session) == [0, 1], 30, "the second is with the engine")
    # One is on its way while they come: what goes next is then decided with them in line.
    stack.submit(session, [100, 101], priority=Priority.HIGH)
    gate.is_open = True
    wait_until(lambda: len(engine.ledger(session)) >= 6, 30, "it goes on")
    # And now while the session waits for its pace. What is being decided at this very moment may still go before.
    stack.submit(session, [102], priority=Priority.HIGH)
    before = len(engine.ledger(session))
    wait_until(lambda: len(engine.ledger(session)) >= before + 3, 30, "it goes on")
    ledger = engine.ledger(session)
    assert ledger[:6] == [0, 1, 100, 101, 2, 3]
    assert 102 in ledger[before : before + 2]
    normal = [number for number in ledger if number < 100]
    assert normal == list(range(len(normal)))
    assert min(seconds_between(fenced_at(session))) >= pace_ms / 1000


def test_never_more_are_in_flight_than_the_worker_was_told(stack: Stack, engine: Engine) -> None:
    engine.on_send = waha_stub.delayed(0.2)
    served = [engine.session(f"s{number}") for number in range(20)]
    for session in served:
        stack.submit(session, range(3))
    stack.ready_worker(WAQUEUE_CONCURRENCY="5")
    stack.wait_for(60, Status.SENT, within_s=60)
    # All of it is used, too.
    assert engine.most_in_flight == 5
    for session in served:
        assert engine.ledger(session) == list(range(3))


def test_the_wait_between_two_is_at_random_between_the_least_and_the_longest(stack: Stack) -> None:
    served = [stack.session(f"s{number}", pacing=every(300, 900)) for number in range(4)]
    for session in served:
        stack.submit(session, range(8))
    stack.ready_worker()
    stack.wait_for(32, Status.SENT, within_s=60)
    gaps = [gap for session in served for gap in stack.gaps(session)]
    assert min(gaps) >= 0.3
    # Of 28, each as likely to be short as long, some are short and some are long. Overhead only makes them longer.
    assert min(gaps) < 0.6 < max(gaps)
    assert sum(gaps) / len(gaps) < 0.9 + 0.3
    for session in served:
        stack.assert_in_order_and_once(session, 8)


def test_a_message_that_waits_for_its_recipient_keeps_those_behind_it_waiting(stack: Stack) -> None:
    session = stack.session("s", pacing=Pacing(per_recipient_ms=1500))
    apart = stack.session("apart", pacing=Pacing(per_recipient_ms=1500))
    stack.submit(session, range(2), to="+51930246001")
    stack.submit(session, [2], to="+51930246002")
    stack.submit(apart, [0], to="+51930246001")
    stack.ready_worker()
    stack.wait_for(4, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(session, 3)
    assert 1.5 <= stack.gaps(session)[0] < 1.5 + LATE.total_seconds()
    # Another session's message to the same phone has nothing to wait for.
    assert stack.handed_over_at(apart)[0] < stack.handed_over_at(session)[1]


def test_a_cap_holds_over_the_loss_of_redis_and_of_the_worker_and_the_session_says_until_when(stack: Stack) -> None:
    capped = stack.session("capped", pacing=Pacing(daily_cap=3))
    stack.submit(capped, range(5))
    api = ApiClient()
    client = redis.Redis.from_url(stack.redis.url)

    def waits() -> bool:
        """Whether the session has been looked at, and is not due for hours."""
        due = client.zscore(keys.DUE, capped.name)
        return due is not None and due > 1000 * (client.time()[0] + 12 * 3600)

    worker = stack.ready_worker()
    wait_until(waits, 60, "the cap is reached")
    assert stack.ledger(capped) == [0, 1, 2]
    worker.kill()
    client.flushall()
    stack.ready_worker()
    wait_until(waits, 60, "the new worker has looked at it")
    assert stack.ledger(capped) == [0, 1, 2]
    said = api.get("/whatsapp/sessions/capped")
    assert said["depth"] == 2
    # A day from the first of the three, up to what Redis rounds to.
    opens_at = datetime.fromisoformat(said["next_due_at"])
    first = stack.handed_over_at(capped)[0]
    assert 24 * 3600 - 1 < (opens_at - first).total_seconds() < 24 * 3600 + 60


def test_a_cap_lets_go_on_when_its_window_is_over_and_what_is_counted_by_the_other_stays(stack: Stack) -> None:
    capped = stack.session("capped", pacing=Pacing(hourly_cap=3, daily_cap=5))
    stack.submit(capped, range(10))
    dispatch = SessionDispatch.objects.filter(session=capped)
    stack.ready_worker()

    def passes(hours: int) -> None:
        """Have that much time pass for this session, and have it looked at."""
        ago = timedelta(hours=hours)
        dispatch.update(
            hour_began_at=F("hour_began_at") - ago,
            day_began_at=F("day_began_at") - ago,
            next_send_at=F("next_send_at") - ago,
        )
        mirror.signal([capped.name])

    def is_capped(of_hour: int, of_day: int, until: str, hours: int) -> bool:
        """Whether it has sent so many in its windows, and waits for the end of one."""
        end = {"next_send_at": F(until) + timedelta(hours=hours)}
        return dispatch.filter(hour_count=of_hour, day_count=of_day, **end).exists()

    wait_until(lambda: is_capped(3, 3, "hour_began_at", 1), 30, "the cap of the hour is reached")
    assert stack.ledger(capped) == [0, 1, 2]
    passes(hours=1)
    wait_until(lambda: is_capped(2, 5, "day_began_at", 24), LATE.total_seconds(), "the cap of the day is reached")
    assert stack.ledger(capped) == [0, 1, 2, 3, 4]
    passes(hours=23)
    wait_until(lambda: is_capped(3, 3, "hour_began_at", 1), LATE.total_seconds(), "the next day has begun")
    assert stack.ledger(capped) == list(range(8))
    # It was one message at a time, and none of them early.
    assert stack.count(Status.QUEUED) == 2


def test_a_pace_that_is_changed_holds_from_the_next_message_on(stack: Stack) -> None:
    slow = stack.session("slow", pacing=every(600_000))
    quick = stack.session("quick", pacing=every(200))
    for session in (slow, quick):
        stack.submit(session, range(100))
    stack.ready_worker()
    wait_until(lambda: stack.ledger(slow) and len(stack.ledger(quick)) > 3, 30, "both send")
    api = ApiClient()
    for session, pace_ms in ((slow, 200), (quick, 2000)):
        pacing = {"min_interval_ms": pace_ms, "max_interval_ms": pace_ms}
        assert api.patch(f"/whatsapp/sessions/{session}", {"pacing": pacing}).status == 200
    changed_at = stack.now()
    wait_until(lambda: len(stack.ledger(slow)) > 10, 60, "what waited for minutes goes on")
    assert min(stack.gaps(slow)) >= 0.2
    assert stack.handed_over_at(slow)[1] < changed_at + LATE
    later = lambda: [at for at in fenced_at(quick) if at > changed_at]  # noqa: E731
    wait_until(lambda: len(later()) > 2, 60, "the other goes on, slower")
    # The wait that was under way counts anew from the last message that was decided before the change.
    earlier = [at for at in fenced_at(quick) if at <= changed_at]
    waits = seconds_between([*earlier[-1:], *later()])
    assert min(waits) >= 2.0
    assert max(waits) < 2.0 + LATE.total_seconds()
    for session in (slow, quick):
        stack.assert_in_order_so_far(session)
