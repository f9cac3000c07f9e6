"""A message that comes back from an orphan keeps its time, its end and its priority."""

import json
import zlib
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from sessions_app.models import Event, Message, Orphan, OrphanEntry, Priority, Session, Status
from sessions_app.queues import keys
from sessions_app.services import messages, orphans, sessions, tasks
from sessions_app.services.messages import Draft
from tests.factories import ACTOR, PHONE, in_an_hour, job_ids, make_session, submit
from tests.reconciliation_lab import run, stock_queue, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


def past() -> Any:
    return timezone.now() - timedelta(minutes=1)


def test_a_scheduled_message_of_a_deleted_session_waits_for_its_time_when_the_session_is_made_again() -> None:
    alpha, at = make_session(), timezone.now() + timedelta(days=7)
    (message,) = submit(alpha, "for next week", scheduled_at=at)
    (due,) = submit(alpha, "due meanwhile", scheduled_at=at)
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    Message.objects.filter(pk=due.pk).update(scheduled_at=past())
    again, adopted = sessions.create(name="alpha", actor=ACTOR)
    assert adopted is not None and adopted.restored == 2
    assert texts_in_line(again) == ["due meanwhile"]
    message.refresh_from_db()
    assert (message.status, message.scheduled_at, message.queued_at, message.session) == (
        Status.SCHEDULED, at, None, again,
    )  # fmt: skip
    assert Event.objects.filter(message=message).latest("id").kind == "message.scheduled"


def test_an_expired_message_of_a_deleted_session_is_shown_as_expired_and_not_sent(redis_client: redis.Redis) -> None:
    alpha = make_session()
    (message,) = submit(alpha, "good until a minute ago", expires_at=in_an_hour())
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    Message.objects.filter(pk=message.pk).update(expires_at=past())
    orphan, beta = Orphan.objects.get(), make_session("beta")
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == 1
    message.refresh_from_db()
    assert message.status == Status.EXPIRED
    assert texts_in_line(beta) == [] == job_ids(redis_client, "beta")
    assert Event.objects.filter(message=message).latest("id").kind == "message.expired"


def lost(*messages: Message) -> None:
    """Forget the rows of a session and of its messages, as an older database would; their jobs are in Redis."""
    ids = [message.pk for message in messages]
    Event.objects.filter(message__in=ids).delete()
    Message.objects.filter(pk__in=ids).delete()
    Session.objects.filter(pk=messages[0].session_id).update(name="was-gone", deleted_at=timezone.now())


def test_a_job_whose_row_is_lost_comes_back_with_its_end_and_its_priority(redis_client: redis.Redis) -> None:
    gone, until = make_session("gone"), in_an_hour()
    normal, high = submit(gone, "normal")[0], submit(gone, "high", priority=Priority.HIGH, expires_at=until)[0]
    short = submit(gone, "short", expires_at=past())[0]
    lost(normal, high, short)
    run()
    orphan, beta = Orphan.objects.get(), make_session("beta")
    assert orphan.messages == 3
    seen = orphans.preview(orphan, orphans.Selection())
    assert seen is not None and (seen.restored, seen.expired, seen.scheduled) == (3, 1, 0)
    orphans.restore(orphan, beta, actor=ACTOR)
    assert texts_in_line(beta) == ["high", "normal"]
    back = Message.objects.get(pk=high.pk)
    assert (back.priority, back.expires_at) == (Priority.HIGH, until)
    assert Message.objects.get(pk=short.pk).status == Status.EXPIRED


def test_a_job_of_others_means_something_else_by_these_names(redis_client: redis.Redis) -> None:
    (job,) = stock_queue(redis_client, "gone", "a")
    call = ["other.app.send", None, [], {"to": PHONE, "text": "a", "priority": 0, "expires_at": "2020-01-01T00:00:00Z"}]
    redis_client.hset(keys.job_key(job), "data", zlib.compress(json.dumps(call).encode()))
    run()
    orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR)
    message = Message.objects.get()
    assert (message.status, message.priority, message.expires_at) == (Status.QUEUED, Priority.NORMAL, None)


@pytest.mark.parametrize("large", [1000, 2])
def test_a_preview_says_what_waits_for_its_time_and_what_has_expired(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LARGE", large)
    alpha = make_session()
    submit(alpha, "a", "b")
    submit(alpha, "later", "later still", scheduled_at=in_an_hour())
    submit(alpha, "short", expires_at=past())
    # What has expired by the time that it was meant for is not sent then either.
    submit(alpha, "both", scheduled_at=in_an_hour(), expires_at=past())
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    seen = orphans.preview(Orphan.objects.get(), orphans.Selection())
    assert seen is not None
    assert (seen.restored, seen.scheduled, seen.expired) == (6, 2, 2)


def test_what_an_orphan_carries_of_a_deleted_session_is_what_its_jobs_carry() -> None:
    alpha, at = make_session(), in_an_hour()
    (message,) = submit(alpha, "a", scheduled_at=at, expires_at=at, priority=Priority.HIGH, client_ref="r")
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    assert OrphanEntry.objects.get().content == message.content() | message.terms()


def test_a_message_comes_back_with_all_that_it_had(redis_client: redis.Redis) -> None:
    gone, url = make_session("gone"), "https://files.example/a.pdf"
    drafts = [
        Draft(to=PHONE, text="it's 100 % \\ ñ €", client_ref="order-7"),
        Draft(to=PHONE, type="image", media_url=url, caption='a "picture"'),
        Draft(to=PHONE, type="document", media_url=url, filename="a.pdf", expires_at=in_an_hour()),
        Draft(to=PHONE, type="template", template={"name": "absent", "values": ["Ana", 3, None, True, {"a": 1.5}]}),
    ]
    before = messages.submit(gone, drafts)
    lost(*before)
    run()
    beta = make_session("beta")
    orphans.restore(Orphan.objects.get(), beta, actor=ACTOR)
    changed = {"session_id", "seq", "queued_at", "client_ref", "metadata"}
    for was, at in zip(before, range(1, 5), strict=True):
        back = Message.objects.get(pk=was.pk)
        same = [each.attname for each in Message._meta.concrete_fields if each.attname not in changed]
        assert {name: getattr(back, name) for name in same} == {name: getattr(was, name) for name in same}
        assert (back.session, back.seq, back.client_ref) == (beta, at, was.client_ref or str(was.pk))
        assert back.metadata == {"orphan": str(Orphan.objects.get().pk)} and back.queued_at is not None
        assert OrphanEntry.objects.get(message=back).restored_at == back.queued_at


def test_what_is_too_long_for_a_message_is_cut(redis_client: redis.Redis) -> None:
    (job,) = stock_queue(redis_client, "gone", "a")
    given = {"to": PHONE, "type": "document", "media_url": "u" * 3000, "filename": "f" * 300, "client_ref": "r" * 300}
    call = ["other.app.send", None, [], given]
    redis_client.hset(keys.job_key(job), "data", json.dumps(call).encode())
    run()
    orphans.restore(Orphan.objects.get(), make_session("beta"), actor=ACTOR)
    back = Message.objects.get()
    assert [len(text) for text in (back.media_url, back.filename, back.client_ref)] == [2000, 255, 200]
