"""What strangers left in Redis, on every page and in every answer: shown escaped, and none of it runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.urls import reverse

from sessions_app.models import Message, Orphan, OrphanState, Reconciliation, Session
from sessions_app.queues import keys
from sessions_app.reconciliation.repair import Policy
from tests import hostile_lab
from tests.admin_lab import act_url, boss, inline_parts, list_url, page_url, text_of
from tests.api_client import ApiClient
from tests.factories import make_session, submit
from tests.hostile_lab import MARKUP, MEGABYTE, entries, leave_jobs
from tests.orphan_lab import orphan_url
from tests.reconciliation_lab import in_order, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]

LISTS = (
    "session", "message", "orphan", "reconciliation", "backgroundtask", "batch", "event", "auditentry", "worker",
    "queue",
)  # fmt: skip
NAMES = [b"*?[x]^\\", b"a\nb\r", b"../../etc/passwd", b"n" * 10_000, b"\xff\xfe\x00", MARKUP.encode(), b"{0} %s"]
# What a page may take at most, whatever it shows: a hundred entries, each cut.
MOST = MEGABYTE


def pages() -> Iterator[str]:
    """Every page that shows something of Redis, of what is there now."""
    yield "/admin/"
    for model in LISTS:
        yield list_url(model)
    yield list_url("orphan") + "?state=all"
    yield reverse("admin:sessions_app_reconciliation_dry_run")
    for session in Session.objects.all():
        yield page_url("session", session.pk)
        yield reverse("admin:sessions_app_session_delete", args=[session.pk])
    for done in Reconciliation.objects.all():
        yield page_url("reconciliation", done.pk)
    for message in Message.objects.all():
        yield page_url("message", message.pk)
    for orphan in Orphan.objects.all():
        yield page_url("orphan", orphan.pk)
        yield orphan_url("restore", orphan)
        yield orphan_url("restore", orphan) + "?preview=1&to=other&session=target"
        yield orphan_url("restore", orphan) + "?preview=1&to=other&session=target&which=younger&age=7d&duplicates=on"
        yield orphan_url("purge", orphan)
        for act in ("archive", "restore", "purge"):
            yield act_url("orphan", act, orphan.pk)


def answers() -> Iterator[str]:
    """The same of the API."""
    for name in ("queues", "orphans", "orphans?state=all", "reconciliations", "sessions", "messages"):
        yield f"/whatsapp/{name}"
    for orphan in Orphan.objects.all():
        yield f"/whatsapp/orphans/{orphan.pk}"
        yield f"/whatsapp/orphans/{orphan.pk}/messages"


def look_at_everything(*, may_be_unread: bool = False) -> list[str]:
    """Ask for each page and each answer; return what the pages say. An orphan's messages may be refused with a 503."""
    client, api = boss(), ApiClient()
    seen = []
    waiting = [*pages()]
    for url in waiting:
        response = client.get(url)
        if following := getattr(response.context.get("page"), "following", None):
            waiting.append(f"{url.partition('?')[0]}?from={following}")
        assert response.status_code == 200, url
        assert inline_parts(response) == [], url
        assert "<script>alert" not in response.content.decode(), url
        assert len(response.content) < MOST, url
        seen.append(text_of(response))
    for url in answers():
        answer = api.get(url)
        may_fail = may_be_unread and url.endswith("/messages")
        assert answer.status == 200 or (may_fail and answer["code"] == "queue_unavailable"), url
        assert len(json.dumps(answer.body)) < MOST, url
    return seen


def exports(orphan: Orphan) -> Iterator[list[bytes]]:
    """An orphan's messages as files, from the page and from the API, line by line."""
    for form in ("csv", "jsonl"):
        response = boss().post(orphan_url("export", orphan), {"format": form})
        assert response.status_code == 200
        assert response.headers["Content-Disposition"].startswith("attachment")
        yield b"".join(response.streaming_content).splitlines()  # type: ignore[attr-defined]


def wait(policy: str) -> None:
    """Have reconciliation find what is there, and archive it or not."""
    make_session("target", desired_state="paused")
    assert run(policy=policy).outcome in ("clean", "findings", "repaired")


def _the_orphan(policy: str) -> Orphan:
    orphan = Orphan.objects.get()
    assert orphan.state == (OrphanState.DETECTED if policy == Policy.REPORT else OrphanState.ARCHIVED)
    return orphan


@pytest.mark.fault(26)
@pytest.mark.parametrize("policy", [Policy.REPORT, Policy.ARCHIVE])
def test_hostile_entries_of_the_old_service_are_shown_escaped_wherever_they_are(
    policy: str, redis_client: redis.Redis, ran: Path
) -> None:
    in_order()
    redis_client.rpush("queue:gone", *entries(ran))
    wait(policy)
    orphan = _the_orphan(policy)
    seen = " ".join(look_at_everything())
    for words in ("\\x80\\x04\\x95\\xff\\x00", "it is empty", "it is no JSON", "bytes are too many for a message"):
        assert words in seen
    assert "&lt;script&gt;alert(1)" in seen
    for lines in exports(orphan):
        assert len(lines) >= len(entries(ran))


@pytest.mark.fault(26)
@pytest.mark.fault(34)
@pytest.mark.parametrize("policy", [Policy.REPORT, Policy.ARCHIVE])
def test_hostile_jobs_of_an_orphaned_queue_are_shown_escaped_and_never_run(
    policy: str, redis_client: redis.Redis, ran: Path
) -> None:
    in_order()
    ids = leave_jobs(redis_client, "wa:gone", ran)
    wait(policy)
    orphan = _the_orphan(policy)
    seen = " ".join(look_at_everything())
    for words in ("its data is a pickle, which is never loaded", "its content is gone", "names-os-system"):
        assert words in seen
    for lines in exports(orphan):
        assert len(lines) >= len(ids)


@pytest.mark.fault(26)
@pytest.mark.fault(34)
def test_hostile_jobs_in_the_queue_of_a_session_are_shown_escaped_and_never_run(
    redis_client: redis.Redis, ran: Path
) -> None:
    alpha = make_session("alpha", desired_state="paused")
    (own,) = submit(alpha, MARKUP)
    in_order()
    redis_client.hset(keys.job_key(own.pk), "meta", hostile_lab.jobs(ran)[b"pickled-in-meta"][b"meta"])  # type: ignore[index]
    ids = leave_jobs(redis_client, "wa:alpha", ran)
    look_at_everything()
    wait(Policy.ARCHIVE)
    assert "alpha" in " ".join(look_at_everything())
    assert Orphan.objects.get().messages == len(ids)


@pytest.mark.fault(26)
@pytest.mark.parametrize("policy", [Policy.REPORT, Policy.ARCHIVE])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_queue_of_a_hostile_name_is_shown_escaped_on_every_page(
    name: bytes, policy: str, redis_client: redis.Redis, ran: Path
) -> None:
    in_order()
    redis_client.rpush(b"queue:" + name, *entries(ran)[:4])
    redis_client.rpush(b"rq:queue:wa:" + name, "x")
    redis_client.sadd(keys.RQ_QUEUES, b"rq:queue:wa:" + name)
    look_at_everything()
    wait(policy)
    assert Orphan.objects.count() == 2
    look_at_everything()


@pytest.mark.fault(26)
def test_keys_of_the_wrong_type_break_no_page(redis_client: redis.Redis, ran: Path) -> None:
    submit(make_session("owned", desired_state="paused"), "x")
    in_order()
    for name in ("owned", "gone"):
        redis_client.delete(keys.queue_key(name))
        redis_client.set(keys.queue_key(name), MARKUP)
        redis_client.hset(f"queue:{name}", MARKUP, MARKUP)
    redis_client.sadd(keys.RQ_QUEUES, keys.queue_key("gone"), keys.queue_key("owned"))
    look_at_everything()
    wait(Policy.ARCHIVE)
    assert "it is no list, and was left alone" in " ".join(look_at_everything())


@pytest.mark.fault(26)
def test_a_live_orphan_whose_key_became_another_type_breaks_no_page(redis_client: redis.Redis, ran: Path) -> None:
    in_order()
    redis_client.rpush("queue:gone", *entries(ran)[:3])
    leave_jobs(redis_client, "wa:gone", ran)
    wait(Policy.REPORT)
    for key in ("queue:gone", "rq:queue:wa:gone"):
        redis_client.delete(key)
        redis_client.set(key, MARKUP)
    assert "cannot be read now" in " ".join(look_at_everything(may_be_unread=True))
    for orphan in Orphan.objects.all():
        done = boss().post(orphan_url("export", orphan), {"format": "csv"})
        assert done.status_code == 302
    assert run().outcome == "repaired"
    assert {orphan.state for orphan in Orphan.objects.all()} == {OrphanState.VANISHED}
    look_at_everything()
