"""The queues in the admin: every one by name, of a session or an orphan, at a constant cost, with Redis or not."""

from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from redis.backoff import NoBackoff
from redis.retry import Retry

from sessions_app.admin import queues
from sessions_app.models import DesiredState, Orphan, Session
from sessions_app.queues import inspect, keys, lists
from sessions_app.services import queue_overview
from sessions_app.services.orphans import archiving
from tests.admin_lab import act_url, audited, boss, inline_parts, list_url, page_url, person, text_of
from tests.factories import hold, make_session, submit
from tests.orphan_lab import HOSTILE, live
from tests.reconciliation_lab import in_order, legacy_list, run, stock_queue
from tests.round_trips import round_trips

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/admin/sessions_app/queue/"


def rows(client: Any, **asked: str) -> list[tuple[str, str, str, int]]:
    """Queue, session or ORPHAN, source and depth of each line, in their order."""
    page = client.get(URL, asked).context["queues"]
    return [
        (row.view.queue, row.session.name if row.session else "ORPHAN", row.source, row.view.depth) for row in page.rows
    ]


def test_every_queue_is_there_by_name_whoever_made_it(redis_client: redis.Redis) -> None:
    submit(make_session("beta"), "one", "two")
    make_session("empty", desired_state="paused")
    in_order()
    legacy_list(redis_client, "alpha", ["x"] * 3)
    stock_queue(redis_client, "gone", ["y"])
    run(policy="report")
    stock_queue(redis_client, "new", ["not looked into yet"])
    assert rows(boss()) == [
        ("queue:alpha", "ORPHAN", "old service", 3),
        ("wa:beta", "beta", "RQ", 2),
        ("wa:empty", "empty", "RQ", 0),
        ("wa:gone", "ORPHAN", "RQ", 1),
        ("wa:new", "ORPHAN", "RQ", 1),
    ]
    seen = boss().get(URL)
    for orphan in Orphan.objects.all():
        assert page_url("orphan", orphan.pk) in seen.content.decode()
    assert "not looked into yet: reconcile" in text_of(seen)
    assert "1 hour ago" in text_of(seen).replace("\xa0", " ").replace("&nbsp;", " ")


def test_a_list_that_is_being_archived_is_there_too(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = live(redis_client, "gone", 4)

    def die(where: str) -> None:
        if where == "archive: list renamed":
            raise RuntimeError

    monkeypatch.setattr(archiving.crash_points, "reach", die)
    with pytest.raises(RuntimeError):
        archiving.archive(orphan)
    assert rows(boss()) == [("queue:gone", "ORPHAN", "old service", 4)]
    legacy_list(redis_client, "gone", ["late"])
    assert sorted(rows(boss())) == [
        ("queue:gone", "ORPHAN", "old service", 1), ("queue:gone", "ORPHAN", "old service", 4),
    ]  # fmt: skip


def test_it_is_filtered_by_state_and_searched_by_name(redis_client: redis.Redis) -> None:
    make_session("serving")
    make_session("paused", desired_state="paused")
    make_session("stopped", desired_state="stopped")
    hold(make_session("held"), "refused")
    live(redis_client, "gone")
    client = boss()

    def found(**asked: str) -> list[str]:
        return [queue for queue, *_ in rows(client, **asked)]

    assert found(state="orphan") == ["queue:gone"]
    assert found(state="serving") == ["wa:serving"]
    assert found(state="held") == ["wa:held"]
    assert found(state="paused") == ["wa:paused", "wa:stopped"]
    assert found(q="GON") == ["queue:gone"]
    assert found(q="erv") == ["wa:serving"]
    assert found(q="n\0l") == []
    assert found(state="nonsense") == []


def test_the_pages_hold_each_queue_once(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "_PER_PAGE", 3)
    for at in range(4):
        make_session(f"s{at}")
        redis_client.rpush(f"rq:queue:wa:o{at}", "1")
        redis_client.sadd(keys.RQ_QUEUES, f"rq:queue:wa:o{at}")
    client = boss()
    seen = [row[0] for page in ("1", "2", "3") for row in rows(client, p=page)]
    assert seen == [f"wa:o{at}" for at in range(4)] + [f"wa:s{at}" for at in range(4)]
    assert "page 2 of 3" in text_of(client.get(URL, {"p": "2"}))
    assert client.get(URL, {"p": "nonsense"}).status_code == 200


def test_it_costs_as_much_for_many_as_for_a_few(redis_client: redis.Redis) -> None:
    client = boss()

    def cost() -> tuple[int, int]:
        client.get(URL)
        with CaptureQueriesContext(connection) as queries, round_trips() as trips:
            assert client.get(URL).status_code == 200
        assert trips.count
        return len(queries), trips.count

    def fill(at: int) -> None:
        submit(make_session(f"session-{at}"), "x")
        stock_queue(redis_client, f"stock-{at}", ["x"])
        legacy_list(redis_client, f"old-{at}", ["x"])

    in_order()
    fill(0)
    run(policy="report")
    for_a_few = cost()
    for at in range(1, 25):
        fill(at)
    run(policy="report")
    assert cost() == for_a_few


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have no Redis, from when this is called."""

    def vanish() -> None:
        client = redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
        monkeypatch.setattr(inspect, "web_client", lambda: client)
        monkeypatch.setattr(lists, "upkeep_client", lambda: client)

    return vanish


def test_without_redis_it_says_so_and_shows_what_postgresql_knows(redis_client: redis.Redis, nowhere: Any) -> None:
    submit(make_session("alpha"), "one", "two")
    live(redis_client, "gone", 9)
    nowhere()
    client = boss()
    assert "Redis cannot be reached." in text_of(client.get(URL))
    assert [row[3] for row in rows(client)] == [2, 9]


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_escaped(name: str, redis_client: redis.Redis) -> None:
    redis_client.rpush(f"rq:queue:wa:{name}", "1")
    redis_client.sadd(keys.RQ_QUEUES, f"rq:queue:wa:{name}", b"rq:queue:wa:\xff", "rq:queue:wa:n\0l")
    redis_client.rpush("rq:queue:wa:n\0l", "1")
    response = boss().get(URL)
    assert len(response.context["queues"].rows) == 2
    assert inline_parts(response) == []
    assert "<script>alert" not in response.content.decode()


# What one does here


def test_queues_are_paused_and_resumed_after_the_question_and_one_comes_back_here() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    client = person("view_session", "operate_session")
    for act, after in (("pause", DesiredState.PAUSED), ("resume", DesiredState.ACTIVE)):
        question = client.post(act_url("session", act), {"ids": [alpha.pk, beta.pk], "back": f"{URL}?q=a"})
        assert f"{act.capitalize()} 2 sessions?" in text_of(question)
        assert not Session.objects.filter(desired_state=after).exists()
        data = {"ids": question.context["ids"], "back": question.context["back"], "confirmed": "yes"}
        done = client.post(question.context["act_url"], data, follow=True)
        assert done.redirect_chain[-1][0] == f"{URL}?q=a"
        assert Session.objects.filter(desired_state=after).count() == 2
    assert [entry[1] for entry in audited()] == ["pause session"] * 2 + ["resume session"] * 2


def test_the_buttons_are_those_of_the_person(redis_client: redis.Redis) -> None:
    make_session()
    dry_run = reverse("admin:sessions_app_reconciliation_dry_run")
    operator = person("view_session", "operate_session", "run_reconciliation", "view_reconciliation")
    seen = operator.get(URL).content.decode()
    assert dry_run in seen and act_url("session", "pause") in seen
    seen = person("view_session").get(URL).content.decode()
    assert dry_run not in seen and act_url("session", "pause") not in seen


def test_orphans_are_only_counted_for_whoever_may_not_see_them(redis_client: redis.Redis) -> None:
    make_session("alpha")
    live(redis_client, "gone")
    client = person("view_session")
    assert [row[0] for row in rows(client)] == ["wa:alpha"]
    assert "1 queue belongs to no session, and you may not see orphans." in text_of(client.get(URL))
    assert [row[0] for row in rows(person("view_session", "view_orphan"))] == ["wa:alpha", "queue:gone"]


def test_it_is_for_whoever_may_see_sessions_and_only_shows() -> None:
    assert list_url("queue") == URL
    stranger = person("view_orphan")
    assert stranger.get(URL).status_code == 403
    assert URL not in stranger.get("/admin/").content.decode()
    assert URL in person("view_session").get("/admin/").content.decode()
    assert boss().post(URL, {}).status_code == 405


def test_an_empty_waqueue_says_what_to_do_first() -> None:
    assert "There is no queue yet." in text_of(boss().get(URL))
    assert "Nothing matches." in text_of(boss().get(URL, {"q": "x"}))


def test_the_overview_of_orphans_is_the_same_for_the_api(redis_client: redis.Redis) -> None:
    live(redis_client, "gone", 2)
    (view,) = queue_overview.orphans()
    assert (view.queue, view.session, view.source, view.depth) == ("queue:gone", "gone", "legacy", 2)
