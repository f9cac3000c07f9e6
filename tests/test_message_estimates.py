"""When a message goes at the earliest: behind what waits before it in its line, and to a recipient with a pace."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from sessions_app.models import Batch, Message, RecipientPace, Session, Status
from sessions_app.services import batches, sessions
from sessions_app.services.messages import Draft
from sessions_app.services.pacing import Pacing
from sessions_app.services.queue_overview import views
from tests.api_client import ApiClient
from tests.factories import ACTOR, PHONE, become, hold, make_session, submit

pytestmark = pytest.mark.django_db

OTHER = "+51900000001"
TEN_MINUTES = timedelta(minutes=10)
SLOW = Pacing(per_recipient_ms=600_000)


def post(*, to: str = PHONE, **content: Any) -> dict[str, Any]:
    answer = ApiClient().post("/whatsapp/sessions/alpha/messages", {"to": to, "text": "x"} | content)
    assert answer.status == 202
    return answer.body  # type: ignore[no-any-return]


def wait_of(answer: dict[str, Any]) -> timedelta:
    """How long after it was accepted it goes, to the second."""
    waits = datetime.fromisoformat(answer["estimated_send_at"]) - datetime.fromisoformat(answer["created_at"])
    return timedelta(seconds=round(waits.total_seconds()))


def shown(message: Message | str) -> Any:
    """When it goes, as it is shown now."""
    pk = message if isinstance(message, str) else message.pk
    at = ApiClient().get(f"/whatsapp/messages/{pk}")["estimated_send_at"]
    return at and datetime.fromisoformat(at)


def waiting(session: Session, at: datetime, **fields: Any) -> Message:
    """A message that waits for its next attempt."""
    return become(submit(session, "retried", **fields)[0], Status.QUEUED, next_attempt_at=at, attempts=1)


def soon() -> datetime:
    return (timezone.now() + TEN_MINUTES).replace(microsecond=0)


# Behind what waits for its next attempt


def test_what_stands_behind_a_message_that_waits_for_its_retry_goes_after_it() -> None:
    session, at = make_session(), soon()
    waiting(session, at)
    (second,) = submit(session, "second")
    posted = post()
    assert datetime.fromisoformat(posted["estimated_send_at"]) == at
    assert shown(second) == shown(posted["id"]) == at


def test_the_pace_begins_when_the_one_that_waits_has_gone() -> None:
    session, at = make_session(pacing=Pacing(min_interval_ms=60_000, max_interval_ms=60_000)), soon()
    waiting(session, at)
    post()
    assert datetime.fromisoformat(post()["estimated_send_at"]) == at + timedelta(minutes=2)


def test_what_goes_before_the_one_that_waits_does_not_wait_for_it() -> None:
    session = make_session()
    waiting(session, soon())
    posted = post(priority="high")
    assert wait_of(posted) == timedelta()
    assert shown(posted["id"]) < timezone.now() + timedelta(minutes=1)


@pytest.mark.parametrize("first", ["high", "normal"])
def test_the_first_of_either_priority_is_waited_for(first: str) -> None:
    session, at = make_session(), soon()
    (normal,), (high,) = submit(session, "normal"), submit(session, "high", priority=0)
    become(high if first == "high" else normal, Status.QUEUED, next_attempt_at=at, attempts=1)
    posted = post()
    assert datetime.fromisoformat(posted["estimated_send_at"]) == shown(posted["id"]) == at


# The pace of a recipient


def test_messages_to_one_recipient_go_at_its_own_pace() -> None:
    make_session(pacing=SLOW)
    posted = [post() for _ in range(3)]
    assert [wait_of(answer) for answer in posted] == [timedelta(), TEN_MINUTES, 2 * TEN_MINUTES]
    assert shown(posted[2]["id"]) > timezone.now() + timedelta(minutes=19)


def test_a_recipient_that_was_written_to_just_now_is_waited_for() -> None:
    session, at = make_session(pacing=SLOW), soon()
    RecipientPace.objects.create(session=session, recipient=PHONE, next_send_at=at)
    assert [datetime.fromisoformat(post()["estimated_send_at"]) for _ in range(2)] == [at, at + TEN_MINUTES]


def test_a_recipients_wait_that_is_over_does_not_count() -> None:
    session = make_session(pacing=SLOW)
    RecipientPace.objects.create(session=session, recipient=PHONE, next_send_at=timezone.now() - TEN_MINUTES)
    assert [wait_of(post()) for _ in range(2)] == [timedelta(), TEN_MINUTES]


def test_the_waits_of_other_recipients_before_it_count_too() -> None:
    make_session(pacing=SLOW)
    for _ in range(3):
        post(to=OTHER)
    assert wait_of(post()) == 2 * TEN_MINUTES
    assert wait_of(post(priority="high")) == timedelta()


def test_the_waits_of_other_sessions_do_not() -> None:
    submit(make_session("beta", pacing=SLOW), *"abc")
    make_session(pacing=SLOW)
    assert wait_of(post()) == timedelta()


def test_of_a_long_line_the_last_two_hundred_are_looked_at() -> None:
    session = make_session(pacing=Pacing(per_recipient_ms=1_000))
    *_, last = submit(session, *["x"] * 300)
    before = timezone.now()
    assert before <= shown(last) - timedelta(seconds=199) <= timezone.now()


def test_while_the_session_does_not_send_there_is_no_estimate_of_a_recipients_pace_either() -> None:
    hold(make_session(pacing=SLOW), "refused")
    assert post()["estimated_send_at"] is None


# What it costs


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count what one message that is handed in asks PostgreSQL."""
    asked: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        asked.append(query)
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    def count() -> int:
        asked.clear()
        post()
        return len(asked)

    return count


def test_only_a_pace_of_recipients_costs_a_statement_more(statements: Callable[[], int]) -> None:
    session = make_session()
    post()
    usual = statements()
    waiting(session, soon(), priority=0)
    assert statements() == usual > 0
    sessions.update(session, pacing=SLOW, actor=ACTOR)
    assert statements() == usual + 1


# Many at once


def hand_in(session: Session, *texts: str) -> Batch:
    made = batches.submit(session, [Draft(to=PHONE, text=text) for text in texts], rejected=0, actor=ACTOR)
    return batches.get(made.pk)


def test_a_batch_is_done_after_what_waits_before_it() -> None:
    session, at = make_session(), soon()
    waiting(session, at)
    assert batches.estimated_done_at(hand_in(session, *"ab"), timezone.now()) == at


def test_a_batch_is_done_at_its_recipients_pace() -> None:
    session, now = make_session(pacing=SLOW), timezone.now()
    assert batches.estimated_done_at(hand_in(session, *"ab"), now) == now + TEN_MINUTES
    assert batches.estimated_done_at(hand_in(session, *"cd"), now) == now + 3 * TEN_MINUTES


def test_a_queue_is_done_after_what_waits_in_it() -> None:
    session, at = make_session(), soon()
    waiting(session, at)
    submit(session, "second")
    (view,) = views([sessions.get("alpha")])
    assert view.estimated_done_at == at
