"""Lists: pages by cursor, filters, and a number of queries that does not grow with what they hold."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Message, Session, Status
from sessions_app.services import messages, sessions
from sessions_app.services.messages import Draft
from tests.api_client import ApiClient
from tests.factories import ACTOR, PHONE, become, in_an_hour, make_session, submit

pytestmark = pytest.mark.django_db

MESSAGES = "/whatsapp/messages"


def texts(client: ApiClient, query: str = "") -> list[str]:
    answer = client.get(f"{MESSAGES}?{query}")
    assert answer.status == 200, answer.body
    return [item["text"] for item in answer["items"]]


# Pages.


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7, 1000])
def test_pages_of_messages_hold_each_once_newest_first(limit: int) -> None:
    wanted = [str(message.pk) for message in submit(make_session("alpha"), *"abcdef")][::-1]
    pages = list(ApiClient().pages(MESSAGES, limit))
    assert [item["id"] for page in pages for item in page] == wanted
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-6 // limit)


@pytest.mark.parametrize("path", ["/whatsapp/sessions", "/whatsapp/queues"])
@pytest.mark.parametrize("limit", [1, 2, 4, 5, 100])
def test_pages_of_sessions_and_queues_hold_each_once_by_name(path: str, limit: int) -> None:
    for name in ("b", "a.1", "a-1", "B", "a"):
        make_session(name)
    key = "name" if path.endswith("sessions") else "session"
    shown = [item[key] for page in ApiClient().pages(path, limit) for item in page]
    assert shown == list(Session.objects.order_by("name").values_list("name", flat=True))
    assert len(shown) == 5


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_pages_of_queues_go_on_with_the_orphans(redis_client: redis.Redis, limit: int) -> None:
    # Names of other applications may be anything at all; ours sort behind them or before.
    for name in ("aaa", "zzz", "n\0l"):
        redis_client.sadd("rq:queues", f"rq:queue:wa:{name}")
        redis_client.rpush(f"rq:queue:wa:{name}", "1", "2")
    make_session("b")
    make_session("c")
    shown = [(item["session"], item["state"]) for page in ApiClient().pages("/whatsapp/queues", limit) for item in page]
    assert shown == [("b", "serving"), ("c", "serving"), ("aaa", "orphan"), ("n\0l", "orphan"), ("zzz", "orphan")]


def test_what_comes_and_goes_meanwhile_neither_repeats_nor_hides_a_row() -> None:
    session = make_session("alpha")
    submit(session, *"abcd")
    client = ApiClient()
    pages = client.pages(MESSAGES, 2)
    shown = [item["text"] for item in next(pages)]
    submit(session, "new")
    Message.objects.filter(text="d").delete()
    shown += [item["text"] for page in pages for item in page]
    assert shown == ["d", "c", "b", "a"]


def test_a_cursor_is_safe_in_a_url_whatever_the_name() -> None:
    for name in ("a" * 64, "z._-"):
        make_session(name)
    cursor = ApiClient().get("/whatsapp/sessions?limit=1")["next"]
    assert cursor.replace("-", "").replace("_", "").isalnum() and cursor.isascii()


@pytest.mark.parametrize("path", ["/whatsapp/sessions", "/whatsapp/messages", "/whatsapp/queues"])
@pytest.mark.parametrize("cursor", ["x", "!", "e30", "W10", "WzEsMl0", "bnVsbA", "%FF", "W" * 3000, "WyJhIiwgImIiXQ"])
def test_a_broken_cursor_is_refused_by_its_name(path: str, cursor: str) -> None:
    assert ApiClient().get(f"{path}?cursor={cursor}").fields == ["cursor"]


def test_the_cursor_of_another_list_is_refused() -> None:
    make_session("a")
    make_session("b")
    client = ApiClient()
    cursor = client.get("/whatsapp/sessions?limit=1")["next"]
    assert client.get(f"{MESSAGES}?cursor={cursor}").fields == ["cursor"]
    assert client.get(f"/whatsapp/queues?cursor={cursor}").fields == ["cursor"]


@pytest.mark.parametrize("path", ["/whatsapp/sessions", "/whatsapp/messages", "/whatsapp/queues"])
@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", ""])
def test_a_limit_that_is_none_is_refused_by_its_name(path: str, limit: str) -> None:
    assert ApiClient().get(f"{path}?limit={limit}").fields == ["limit"]


def test_a_list_has_a_hundred_items_unless_asked() -> None:
    submit(make_session("alpha"), *("x" for _ in range(101)))
    client = ApiClient()
    assert len(client.get(MESSAGES)["items"]) == 100
    assert len(client.get(f"{MESSAGES}?limit=1000")["items"]) == 101


# Filters.


def test_filters_of_messages_each_and_together() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    (one,) = submit(alpha, "one", client_ref="r1")
    submit(alpha, "two", to="+5215512345678")
    submit(beta, "three", client_ref="r1")
    submit(beta, "four", scheduled_at=in_an_hour())
    batch = uuid.uuid4()
    messages.submit(beta, [Draft(to=PHONE, text="five")], batch_id=batch)
    become(one, Status.FAILED)
    client = ApiClient()
    assert texts(client) == ["five", "four", "three", "two", "one"]
    assert texts(client, "session=alpha") == ["two", "one"]
    assert texts(client, "status=failed") == ["one"]
    assert texts(client, "status=scheduled") == ["four"]
    assert texts(client, "to=%2B52 1 55 1234 5678") == ["two"]
    assert texts(client, "client_ref=r1") == ["three", "one"]
    assert texts(client, f"batch={batch}") == ["five"]
    assert texts(client, "client_ref=r1&session=beta&status=queued") == ["three"]
    assert texts(client, f"batch={uuid.uuid4()}") == []
    assert [len(page) for page in client.pages(f"{MESSAGES}?session=beta", 2)] == [2, 1]


def test_created_after_shows_what_is_later_and_nothing_else() -> None:
    session = make_session("alpha")
    created = [submit(session, text)[0].created_at for text in "abc"]
    client = ApiClient()
    after = created[1].isoformat().replace("+", "%2B")
    assert texts(client, f"created_after={after}") == ["c"]
    just_before = (created[1] - timedelta(microseconds=1)).isoformat().replace("+", "%2B")
    assert texts(client, f"created_after={just_before}") == ["c", "b"]
    assert texts(client, "created_after=1900-01-01T00:00:00Z") == ["c", "b", "a"]
    assert texts(client, "created_after=9999-12-31T23:59:59Z") == []


@pytest.mark.parametrize(
    "query",
    [
        "status=lost", "to=me", "batch=7", "client_ref=", "session=", "created_after=yesterday",
        "created_after=1700000000", "created_after=2026-01-01T00:00:00", "created_after=2026-01-01T00:00:00+02:00",
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused_by_its_name(query: str) -> None:
    assert ApiClient().get(f"{MESSAGES}?{query}").fields == [query.partition("=")[0]]


def test_a_filter_by_a_session_that_never_was_is_404() -> None:
    answer = ApiClient().get(f"{MESSAGES}?session=nope")
    assert answer.status == 404 and answer["code"] == "session_not_found"


def test_messages_of_a_deleted_session_are_still_found_by_its_name() -> None:
    for text in ("old", "new"):
        session = make_session("alpha")
        submit(session, text)
        sessions.delete(session, actor=ACTOR, unsent="cancel")
    assert texts(ApiClient(), "session=alpha") == ["new", "old"]


# Cost.


def queries_of(path: str) -> int:
    client = ApiClient()
    client.get(path)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(path).status == 200
    return len(queries)


def some_sessions(count: int) -> None:
    start = Session.objects.count()
    for at in range(start, start + count):
        submit(make_session(f"s{at}"), "one", "two")


@pytest.mark.parametrize(
    "path", ["/whatsapp/sessions", "/whatsapp/queues", "/whatsapp/messages", "/whatsapp/messages?session=s0"]
)
@pytest.mark.parametrize("make", [some_sessions])
def test_a_list_costs_the_same_number_of_queries_however_long_it_is(path: str, make: Callable[[int], None]) -> None:
    make(1)
    few = queries_of(path)
    make(20)
    assert queries_of(path) == few <= 8


def test_one_message_costs_the_same_number_of_queries_behind_any_line() -> None:
    session = make_session("alpha")
    (first,) = submit(session, "one")
    few = queries_of(f"{MESSAGES}/{first.pk}")
    (last,) = submit(session, *("x" for _ in range(300)))[-1:]
    assert queries_of(f"{MESSAGES}/{last.pk}") <= few


def test_the_filter_by_time_does_not_walk_through_older_rows() -> None:
    session = make_session("alpha")
    submit(session, *("x" for _ in range(50)))
    after = timezone.now()
    submit(session, "new")
    with CaptureQueriesContext(connection) as queries:
        assert texts(ApiClient(), "created_after=" + after.isoformat().replace("+", "%2B")) == ["new"]
    (listing,) = [query["sql"] for query in queries if "ORDER BY" in query["sql"] and "wa_message" in query["sql"]]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN " + listing)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    (bound,) = [line for line in plan.splitlines() if "Index Cond" in line and "id >=" in line]
    assert "wa_message" in plan and bound
