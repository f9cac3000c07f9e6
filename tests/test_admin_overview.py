"""The front page: healthy or not, what needs a person, and what is whose to see."""

from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.models import Message, Status, Worker
from sessions_app.queues import inspect
from tests.admin_lab import boss, list_url, page_url, person, text_of
from tests.factories import become, hold, make_session, submit

pytestmark = pytest.mark.django_db


def _worker(name: str = "w", **fields: Any) -> Worker:
    now = timezone.now()
    values = {"started_at": now, "heartbeat_at": now, "steady_since": now} | fields
    return Worker.objects.create(name=name, hostname="h", pid=1, concurrency=1, **values)


def test_a_healthy_waqueue_says_so_in_one_line(kept_redis: redis.Redis) -> None:
    _worker()
    make_session()
    seen = text_of(boss().get("/admin/"))
    assert "Healthy: nothing needs you." in seen
    assert "1 worker is running." in seen


def test_a_new_waqueue_says_what_to_do_first() -> None:
    seen = boss().get("/admin/")
    assert "There is no session yet." in text_of(seen)
    assert "/admin/sessions_app/session/add/" in seen.content.decode()
    assert "No worker is running: nothing is sent." in text_of(seen)


def test_each_line_leads_to_the_page_that_helps() -> None:
    now = timezone.now()
    held, other = make_session("held"), make_session("other")
    hold(held, "refused", hold_reason="bad token")
    become(submit(other, "x")[0], Status.UNCERTAIN)
    for message in submit(other, "x", "x"):
        become(message, Status.UNCERTAIN, error_class="poison")
    become(submit(other, "x")[0], Status.FAILED, failed_at=now)
    submit(other, "waits")
    Message.objects.filter(status=Status.QUEUED).update(queued_at=now - timedelta(hours=1))
    _worker("silent", heartbeat_at=now - timedelta(hours=1))
    client = boss()
    response = client.get("/admin/")
    lines = {line.text: line.url for line in response.context["lines"]}
    assert lines == {
        "No worker is running, and messages wait to be sent.": list_url("worker"),
        "The session held is held.": page_url("session", held.pk),
        "2 messages of other are set aside: each process that sends one dies.": (
            f"{list_url('message')}?status=uncertain&session=other"
        ),
        "1 message of other is uncertain: did it arrive?": f"{list_url('message')}?status=uncertain&session=other",
        "1 message of other failed in the last 24 hours.": f"{list_url('message')}?status=failed&session=other",
        "The worker silent fell silent without saying goodbye.": f"{list_url('worker')}?state=gone",
    }
    assert "Needs attention" in text_of(response)
    for url in lines.values():
        assert client.get(url).status_code == 200


def test_it_says_that_redis_is_away(monkeypatch: Any) -> None:
    nowhere = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.1)
    monkeypatch.setattr(inspect, "web_client", lambda: nowhere)
    seen = text_of(boss().get("/admin/"))
    assert "Needs attention" in seen
    assert "Redis cannot be reached" in seen


def test_a_person_sees_the_lines_that_are_theirs_and_that_there_are_others() -> None:
    hold(make_session("held"), "refused")
    become(submit(make_session("other"), "x")[0], Status.UNCERTAIN)
    seen = text_of(person("view_message").get("/admin/"))
    assert "is uncertain" in seen
    assert "The session held" not in seen
    assert "Something needs a person who may see more than you do." in seen


def test_it_costs_a_constant_number_of_queries() -> None:
    client = boss()

    def cost(sessions: range) -> int:
        for at in sessions:
            hold(make_session(f"s{at}"), "refused")
            become(submit(make_session(f"t{at}"), "x")[0], Status.UNCERTAIN)
        with CaptureQueriesContext(connection) as queries:
            client.get("/admin/")
        return len(queries)

    cost(range(1))
    assert cost(range(1, 2)) == cost(range(2, 12))


def test_our_pages_come_first_in_the_order_of_their_use() -> None:
    apps = boss().get("/admin/").context["app_list"]
    assert apps[0]["app_label"] == "sessions_app"
    assert [entry["object_name"] for entry in apps[0]["models"]] == [
        "Session", "Queue", "Orphan", "Message", "Batch", "Reconciliation", "BackgroundTask", "Worker", "LoopbackEntry",
        "Event", "ApiKey", "AuditEntry",
    ]  # fmt: skip
