"""Orphans restored and purged in the admin: seen first, counted again when it happens, or left alone and said."""

import html
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.utils import timezone

from sessions_app.models import (
    Attempt,
    AuditEntry,
    BackgroundTask,
    Message,
    Orphan,
    OrphanState,
    Outcome,
    Session,
    Status,
)
from sessions_app.services import orphans, sessions, tasks
from sessions_app.transports import registry
from sessions_app.transports.waha import WahaTransport
from tests.admin_lab import audited, confirm, list_url, page_url, person, text_of
from tests.factories import ACTOR, become, in_an_hour, make_session, submit
from tests.orphan_lab import answer, archived, live, orphan_url, preview
from tests.reconciliation_lab import in_order, legacy_list, run, stock_queue, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("only_loopback")]

SEE = ("view_orphan", "view_message_content", "view_backgroundtask")
OPERATOR = (*SEE, "restore_orphan", "add_session")
# What the form of a new session wants besides its name.
ADD = {
    "min_interval_ms": "0", "max_interval_ms": "0", "per_recipient_ms": "0", "hourly_cap": "0", "daily_cap": "0",
    "quiet_start": "", "quiet_end": "", "quiet_tz": "", "on_uncertain": "hold", "config_delay_ms": "0",
    "config_fail_rate": "0", "config_fail_as": "rejected", "start_paused": "on",
}  # fmt: skip


# Restore


@pytest.fixture
def choice(only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two transports, of which one needs settings."""
    monkeypatch.setitem(registry._TRANSPORTS, WahaTransport.name, WahaTransport)


@pytest.mark.usefixtures("choice")
def test_where_there_is_a_choice_of_transports_it_is_a_persons(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*OPERATOR)
    shown = preview(client, orphan)
    # One that needs settings is added first.
    assert [name for name, _ in shown.context["transports"]] == ["loopback"]
    assert "Say on which transport the session is made." in text_of(shown)
    assert "foresight" not in shown.context
    data = {"to": "own", "which": "all", "expected": "9"}
    refused = client.post(orphan_url("restore", orphan), data)
    assert "The session gone cannot be made so" in text_of(refused)
    assert not Session.objects.exists() and not Message.objects.exists()
    client.post(orphan_url("restore", orphan), answer(preview(client, orphan, index="3", transport="loopback")))
    assert texts_in_line(sessions.get("gone")) == ["text 3"]
    assert sessions.get("gone").transport == "loopback"


@pytest.mark.usefixtures("choice")
def test_a_session_is_added_on_the_way_and_leaves_the_orphan_to_be_chosen_from(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*OPERATOR, "view_session")
    add = client.get(orphan_url("restore", orphan)).context["add_url"]
    choosing = client.get(add).content.decode()
    way = next(query for query in re.findall(r'href="(\?[^"]+)"', choosing) if "transport=loopback" in query)
    address = add.partition("?")[0] + html.unescape(way)
    done = client.post(address, {"name": "gone", **ADD}, follow=True)
    assert done.redirect_chain[-1][0] == orphan_url("restore", orphan)
    assert not Message.objects.exists()
    client.post(orphan_url("restore", orphan), answer(preview(client, orphan, index="3")))
    assert texts_in_line(sessions.get("gone")) == ["text 3"]


def test_a_restore_shows_what_will_happen_then_does_just_that(redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    client = person(*OPERATOR)
    shown = preview(client, orphan)
    assert "A session called gone is made now." in shown.context["foresight"].sentences
    assert shown.context["foresight"].count == 9
    assert not Session.objects.exists() and redis_client.llen("queue:gone") == 9
    done = client.post(orphan_url("restore", orphan), answer(shown), follow=True)
    assert "9 messages were restored into gone." in text_of(done)
    assert texts_in_line(sessions.get("gone")) == [f"text {at}" for at in range(9)]
    assert [entry[1:] for entry in audited()] == [
        ("archive orphan", "queue:gone"), ("create session", "gone"), ("restore orphan", "queue:gone"),
    ]  # fmt: skip
    assert AuditEntry.objects.get(action="restore orphan").count == 9


@pytest.mark.fault(18)
def test_a_tenth_message_that_arrives_meanwhile_stops_a_restore(redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    client = person(*OPERATOR)
    shown = preview(client, orphan)
    legacy_list(redis_client, "gone", ["a tenth"])
    refused = client.post(orphan_url("restore", orphan), answer(shown))
    assert "There were 9 messages when you looked, and there are 10 now. Nothing was restored." in text_of(refused)
    assert refused.context["foresight"].count == 10
    assert redis_client.llen("queue:gone") == 10
    assert not Session.objects.exists() and audited() == []
    client.post(orphan_url("restore", orphan), answer(refused))
    assert len(texts_in_line(sessions.get("gone"))) == 10


def test_only_young_ones_are_restored_and_young_means_when_it_was_asked(redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, "gone", ["old"], hours_ago=30)
    legacy_list(redis_client, "gone", ["young"], hours_ago=0.5)
    legacy_list(redis_client, "gone", ["of no time"], hours_ago=None)
    run()
    orphan = Orphan.objects.get()
    client = person(*OPERATOR)
    shown = preview(client, orphan, which="younger", age="24h")
    assert shown.context["foresight"].count == 1
    assert "2 were not chosen and stay in the orphan." in shown.context["foresight"].sentences
    assert any("old" in text for text in preview(client, orphan).context["foresight"].warnings)
    done = client.post(orphan_url("restore", orphan), answer(shown), follow=True)
    assert texts_in_line(sessions.get("gone")) == ["young"]
    assert "2 messages are left in the orphan." in text_of(done)


def test_chosen_ones_are_restored_even_where_their_session_is_made_for_them(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client, count=5)
    client = person(*OPERATOR)
    shown = preview(client, orphan, index=["1", "3", "99"])
    assert shown.context["wish"].which == "chosen"
    client.post(orphan_url("restore", orphan), answer(shown))
    # A new session takes what is young by itself, but not what a person has just decided about.
    assert texts_in_line(sessions.get("gone")) == ["text 1", "text 3"]
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 3)


def test_nothing_is_chosen_from_a_list_whose_places_shift(redis_client: redis.Redis) -> None:
    orphan = live(redis_client, count=3)
    client = person(*OPERATOR, "purge_orphan")
    page = client.get(page_url("orphan", orphan.pk))
    assert 'name="index"' not in page.content.decode()
    assert "To choose among them, archive them first." in text_of(page)
    shown = preview(client, orphan, index="1")
    assert "the places of its messages shift. Archive it first" in text_of(shown)
    assert "foresight" not in shown.context
    data = {"to": "own", "which": "chosen", "index": "1", "expected": "3"}
    assert "Nothing was restored." in text_of(client.post(orphan_url("restore", orphan), data))
    assert redis_client.llen("queue:gone") == 3 and not Message.objects.exists()
    confirm(client, "orphan", "archive", orphan.pk)
    chosen = client.get(page_url("orphan", orphan.pk)).content.decode()
    # The number that is read is the one that is chosen, and that the API and the command take.
    assert re.findall(r'name="index" value="(\d+)" aria-label="Message (\d+)"', chosen) == [
        (str(at), str(at)) for at in range(3)
    ]


def test_it_is_said_what_waits_for_its_time_and_what_has_expired() -> None:
    alpha = make_session("alpha", desired_state="paused")
    submit(alpha, "a")
    submit(alpha, "later", scheduled_at=in_an_hour())
    submit(alpha, "short", expires_at=in_an_hour() - timedelta(hours=2))
    (doubted,) = submit(alpha, "doubted", expires_at=in_an_hour() - timedelta(hours=2))
    become(doubted, Status.QUEUED, resends=1)
    Attempt.objects.create(
        token=1, message=doubted, session=alpha, number=1, worker_id=uuid.uuid4(), fenced_at=timezone.now(),
        finished_at=timezone.now(), outcome=Outcome.UNCERTAIN,
    )  # fmt: skip
    sessions.delete(alpha, actor=ACTOR, unsent="orphan")
    sentences = preview(person(*OPERATOR), Orphan.objects.get()).context["foresight"].sentences
    assert "1 of them is scheduled for a time that lies ahead, and is sent then." in sentences
    assert "1 of them has expired: it is not sent, and is shown as expired." in sentences
    why = "an earlier attempt may have arrived"
    assert f"1 of them has expired, but {why}: it is not sent again, and is shown as uncertain." in sentences


def test_other_orphans_of_the_name_are_taken_by_the_session_that_is_made_and_it_is_said(
    redis_client: redis.Redis,
) -> None:
    orphan = live(redis_client, count=2)
    stock_queue(redis_client, "gone", ["from rq"])
    client = person(*OPERATOR)
    done = client.post(orphan_url("restore", orphan), answer(preview(client, orphan)), follow=True)
    assert "1 message that waited under its name was put into its line" in text_of(done)
    assert sorted(texts_in_line(sessions.get("gone"))) == ["from rq", "text 0", "text 1"]


def test_it_goes_into_another_session_only_if_there_is_one(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*OPERATOR)
    assert "There is no session called nowhere." in text_of(preview(client, orphan, to="other", session="nowhere"))
    assert "Say which session" in text_of(preview(client, orphan, to="other"))
    other = make_session("other", desired_state="paused")
    submit(other, "first")
    shown = preview(client, orphan, to="other", session="other")
    assert "1 message waits there already and goes first." in shown.context["foresight"].sentences
    assert "The session other is paused or stopped" in shown.context["foresight"].warnings[0]
    sessions.delete(other, actor=ACTOR, unsent="cancel")
    gone = client.post(orphan_url("restore", orphan), answer(shown))
    assert "There is no session called other." in text_of(gone)
    assert not Session.objects.alive().exists()


def test_a_session_is_only_made_by_whoever_may_and_where_there_is_no_choice(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*SEE, "restore_orphan")
    page = client.get(orphan_url("restore", orphan))
    assert "it does not exist, and has to be added first" in text_of(page)
    data = {"to": "own", "which": "all", "expected": "9", "session": "gone"}
    assert "There is no session called gone." in text_of(client.post(orphan_url("restore", orphan), data))
    assert not Session.objects.exists()


def test_a_yes_without_a_look_restores_nothing(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    for expected in ("", "x", "-9", "9" * 40):
        client = person(*OPERATOR)
        client.post(orphan_url("restore", orphan), {"to": "own", "which": "all", "expected": expected})
    assert not Session.objects.exists()


def test_one_that_was_dealt_with_meanwhile_is_left_alone(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*OPERATOR, "purge_orphan")
    shown = preview(client, orphan)
    orphans.restore(orphan, make_session("other"), actor=ACTOR)
    refused = client.post(orphan_url("restore", orphan), answer(shown))
    assert "Nothing was restored." in text_of(refused)
    purge = client.post(orphan_url("purge", orphan), {"shown": "9", "typed": "9"})
    assert "Nothing was deleted." in text_of(purge)
    assert "dealt with already" in text_of(client.get(orphan_url("restore", orphan)))
    assert "dealt with already" in text_of(client.get(orphan_url("purge", orphan)))
    assert Message.objects.count() == 9


def test_a_large_one_is_restored_in_the_background(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = live(redis_client, count=30)
    monkeypatch.setattr(tasks, "LARGE", 20)
    client = person(*OPERATOR)
    too_long = preview(client, orphan)
    assert "Archive it first" in text_of(too_long)
    confirm(client, "orphan", "archive", orphan.pk)
    shown = preview(client, orphan)
    assert shown.context["foresight"].count == 30
    done = client.post(orphan_url("restore", orphan), answer(shown), follow=True)
    task = BackgroundTask.objects.get()
    assert done.redirect_chain[-1][0] == page_url("backgroundtask", task.pk)
    assert "0 of 30" in text_of(done)
    tasks.run(task.pk)
    assert len(texts_in_line(sessions.get("gone"))) == 30
    assert "restored to gone: 30" in text_of(client.get(page_url("backgroundtask", task.pk)))


# Purge


def test_a_purge_wants_the_number_typed(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    client = person(*SEE, "purge_orphan")
    assert "All of its 9 messages are deleted." in text_of(client.get(orphan_url("purge", orphan)))
    for typed in ("", "8", "nine", "yes"):
        refused = client.post(orphan_url("purge", orphan), {"shown": "9", "typed": typed})
        assert "Nothing was deleted." in text_of(refused)
    assert Orphan.objects.get().messages == 9
    done = client.post(orphan_url("purge", orphan), {"shown": "9", "typed": " 9 "}, follow=True)
    assert "9 messages were deleted for good." in text_of(done)
    orphan.refresh_from_db()
    assert orphan.state == OrphanState.PURGED
    entry = AuditEntry.objects.get(action="purge orphan")
    assert (entry.actor, entry.target, entry.count) == ("person-0", "queue:gone", 9)


def test_a_tenth_message_that_arrives_meanwhile_stops_a_purge(redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    client = person(*SEE, "purge_orphan")
    shown = client.get(orphan_url("purge", orphan)).context["count"]
    legacy_list(redis_client, "gone", ["a tenth"])
    refused = client.post(orphan_url("purge", orphan), {"shown": str(shown), "typed": "9"})
    assert "There were 9 messages when you looked, and there are 10 now. Nothing was deleted." in text_of(refused)
    assert redis_client.llen("queue:gone") == 10
    # Whoever types the number of now without having seen it has confirmed nothing.
    client.post(orphan_url("purge", orphan), {"shown": "9", "typed": "10"})
    assert redis_client.llen("queue:gone") == 10
    assert audited() == []


def test_chosen_ones_are_purged_of_an_archived_one(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client, count=4)
    client = person(*SEE, "purge_orphan")
    page = client.get(orphan_url("purge", orphan), {"index": ["0", "2"]})
    assert "The 2 chosen messages are deleted." in text_of(page)
    client.post(orphan_url("purge", orphan), {"shown": "2", "typed": "2", "index": ["0", "2"]})
    assert [entry.text for entry in orphans.entries(orphan)] == ["text 1", "text 3"]


def test_a_large_one_is_purged_in_the_background(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = live(redis_client, count=30)
    monkeypatch.setattr(tasks, "LARGE", 20)
    client = person(*SEE, "purge_orphan")
    client.post(orphan_url("purge", orphan), {"shown": "30", "typed": "30"})
    tasks.run(BackgroundTask.objects.get().pk)
    orphan.refresh_from_db()
    assert orphan.state == OrphanState.PURGED


# Several at once


def ask_about(client: Any, act: str, *rows: Orphan) -> Any:
    """Choose rows in the list, and the act."""
    data = {"action": act, ACTION_CHECKBOX_NAME: [str(row.pk) for row in rows], "index": "0"}
    return client.post(list_url("orphan"), data)


def say_yes(client: Any, question: Any, **more: str) -> Any:
    """Answer the question."""
    context = question.context
    data = {"ids": context["ids"], "confirmed": "yes", "back": context["back"], **dict(context["hidden"]), **more}
    return client.post(context["act_url"], data, follow=True)


def test_several_are_restored_to_the_sessions_of_their_names(redis_client: redis.Redis) -> None:
    names = ("this", "there", "no name", "nobody")
    this, there, odd, nobody = (archived(redis_client, name, 2, hours_ago=50) for name in names)
    make_session("this", desired_state="paused")
    make_session("there", desired_state="paused")
    client = person(*OPERATOR)
    question = ask_about(client, "restore", this, there, odd, nobody)
    assert "Restore 3 orphans into the sessions of their names?" in text_of(question)
    assert "1 of those chosen is not in a state for this" in text_of(question)
    assert "nobody (does not exist)" in text_of(question)
    report = text_of(say_yes(client, question))
    assert "4 messages were restored." in report and "1 was left alone" in report
    assert not Session.objects.filter(name="nobody").exists()
    for name in ("this", "there"):
        assert texts_in_line(sessions.get(name)) == ["text 0", "text 1"]


def test_several_are_purged_with_their_number_typed_but_those_that_changed(redis_client: redis.Redis) -> None:
    first, second = archived(redis_client, "first", 3), live(redis_client, "second", 4)
    client = person(*SEE, "purge_orphan")
    question = ask_about(client, "purge", first, second)
    assert question.context["typed"] == 7
    for typed in ("", "2", "3"):
        assert "Nothing was deleted." in text_of(say_yes(client, question, typed=typed))
    assert Orphan.objects.unresolved().count() == 2
    legacy_list(redis_client, "second", ["another"])
    report = text_of(say_yes(client, question, typed="7"))
    assert "3 messages were deleted." in report and "1 was left alone" in report
    assert {row.queue: row.state for row in Orphan.objects.all()} == {
        "queue:first": "purged", "queue:second": "detected",
    }  # fmt: skip
    assert redis_client.llen("queue:second") == 5


def test_large_ones_among_several_go_into_the_background(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (archived(redis_client, name, n, hours_ago=50) for name, n in (("small", 2), ("large", 30)))
    make_session("small"), make_session("large")
    monkeypatch.setattr(tasks, "LARGE", 20)
    client = person(*OPERATOR)
    report = say_yes(client, ask_about(client, "restore", small, large))
    assert "1 is so large that it is done in the background." in text_of(report)
    assert BackgroundTask.objects.get().total == 30
