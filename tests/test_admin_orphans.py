"""Orphans in the admin: shown whole, masked and escaped; archived, restored and purged after a question, or not."""

import csv
import json

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from redis.backoff import NoBackoff
from redis.retry import Retry

from sessions_app.models import AuditEntry, Message, Orphan, OrphanState, Session, Status
from sessions_app.queues import inspect, lists
from sessions_app.services import orphans, sessions
from tests.admin_lab import act_url, audited, boss, confirm, inline_parts, list_url, page_url, person, text_of
from tests.factories import ACTOR, PHONE, become, make_session, submit
from tests.orphan_lab import HOSTILE, answer, archived, live, orphan_url, preview
from tests.reconciliation_lab import in_order, legacy_list, run, stock_queue, texts_in_line
from tests.round_trips import round_trips

pytestmark = pytest.mark.django_db(transaction=True)

SEE = ("view_orphan", "view_message_content", "view_backgroundtask")
OPERATOR = (*SEE, "restore_orphan", "add_session")


# The list


def test_live_and_archived_ones_stand_in_one_list_with_what_redis_holds_now(redis_client: redis.Redis) -> None:
    archived(redis_client, "copied", 3)
    live(redis_client, "gone", 9, hours_ago=5)
    legacy_list(redis_client, "gone", ["a tenth"])
    seen = boss().get(list_url("orphan"))
    rows = {row.queue: (row.state, row.messages) for row in seen.context["cl"].result_list}
    assert rows == {"queue:gone": ("detected", 10), "queue:copied": ("archived", 3)}
    assert "5 hours ago" in text_of(seen).replace("\xa0", " ")


def test_resolved_ones_are_shown_when_asked_for_with_who_resolved_them(redis_client: redis.Redis) -> None:
    orphans.purge(archived(redis_client), expected=9, actor=ACTOR)
    client = boss()
    assert not client.get(list_url("orphan")).context["cl"].result_list
    for state in ("purged", "all"):
        seen = text_of(client.get(list_url("orphan"), {"state": state}))
        assert "command test" in seen and "purged: 9" in seen


def test_they_are_filtered_by_state_source_and_session_and_searched_by_name(redis_client: redis.Redis) -> None:
    live(redis_client, "gone")
    archived(redis_client, "other")
    session = make_session("deleted")
    submit(session, "x")
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    client = boss()

    def found(**filters: str) -> set[str]:
        return {row.queue for row in client.get(list_url("orphan"), filters).context["cl"].result_list}

    assert found(state="detected") == {"queue:gone"}
    assert found(source="deleted_session") == {"wa:deleted"}
    assert found(session="other") == {"queue:other"}
    assert found(q="ueue:g") == {"queue:gone"}
    assert found(q="n\0l", session="n\0l") == set()


def test_the_list_costs_as_much_for_fifty_as_for_one(redis_client: redis.Redis) -> None:
    client = boss()

    def cost() -> tuple[int, int]:
        client.get(list_url("orphan"))
        with CaptureQueriesContext(connection) as queries, round_trips() as trips:
            assert client.get(list_url("orphan")).status_code == 200
        assert trips.count
        assert not [query for query in queries if "COUNT(" in query["sql"] and '"wa_orphan"' in query["sql"]]
        return len(queries), trips.count

    in_order()
    legacy_list(redis_client, "first", ["x"])
    stock_queue(redis_client, "stock", ["x"])
    run(policy="report")
    for_two = cost()
    for at in range(50):
        legacy_list(redis_client, f"gone-{at}", ["x"])
    run(policy="report")
    assert cost() == for_two


def test_without_redis_the_list_shows_what_postgresql_knows(redis_client: redis.Redis, no_redis: None) -> None:
    assert boss().get(list_url("orphan")).status_code == 200


@pytest.fixture
def no_redis(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an orphan that is live, then no Redis."""
    live(redis_client)
    nowhere = redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(inspect, "web_client", lambda: nowhere)
    monkeypatch.setattr(lists, "upkeep_client", lambda: nowhere)


def test_without_redis_the_pages_of_a_live_one_say_so_and_nothing_is_done(no_redis: None) -> None:
    orphan = Orphan.objects.get()
    client = boss()
    for url in (page_url("orphan", orphan.pk), orphan_url("restore", orphan), orphan_url("purge", orphan)):
        assert "Redis cannot be reached" in text_of(client.get(url)), url
    assert "Redis cannot be reached" in text_of(client.post(orphan_url("export", orphan), {}, follow=True))
    purge = client.post(orphan_url("purge", orphan), {"shown": "9", "typed": "9"})
    assert "Nothing was deleted." in text_of(purge)
    restore = client.post(orphan_url("restore", orphan), {"to": "own", "which": "all", "expected": "9"})
    assert "Nothing was restored." in text_of(restore)
    assert "Redis cannot be reached" in text_of(confirm(client, "orphan", "archive", orphan.pk))
    assert not Session.objects.exists()
    # Begun, written down, and finished by the next reconciliation.
    assert [entry[1] for entry in audited()] == ["archive orphan"]


# The page of one


def test_the_page_says_why_and_shows_its_messages_in_order(redis_client: redis.Redis) -> None:
    orphan = live(redis_client, "gone", 3)
    seen = text_of(boss().get(page_url("orphan", orphan.pk)))
    for words in ("It is a list that the old service left in Redis for gone.", "gone (does not exist)", PHONE):
        assert words in seen
    places = [seen.find(f"text {at}") for at in range(3)]
    assert -1 not in places and places == sorted(places)


def test_each_source_says_its_own_why(redis_client: redis.Redis) -> None:
    in_order()
    stock_queue(redis_client, "stock", ["x"])
    run()
    stock = Orphan.objects.get(session_name="stock")
    session = make_session("shop")
    submit(session, "x")
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    client = boss()
    assert "there was no such session" in text_of(client.get(page_url("orphan", stock.pk)))
    deleted = Orphan.objects.get(source="deleted_session")
    assert "The session shop was deleted by command test" in text_of(client.get(page_url("orphan", deleted.pk)))


def test_a_long_one_is_read_in_pages(redis_client: redis.Redis) -> None:
    client = boss()
    for orphan in (live(redis_client, "gone", 205), archived(redis_client, "other", 205)):
        seen, start = [], 0
        while True:
            page = client.get(page_url("orphan", orphan.pk), {"from": str(start)}).context["page"]
            seen += [line.index for line in page.lines]
            if page.following is None:
                break
            start = page.following
        assert seen == list(range(205))


@pytest.mark.parametrize("start", ["-1", "nonsense", "9" * 30, "²", ""])
def test_a_place_that_is_none_breaks_nothing(start: str, redis_client: redis.Redis) -> None:
    for orphan in (live(redis_client), archived(redis_client, "other")):
        assert boss().get(page_url("orphan", orphan.pk), {"from": start}).status_code == 200


@pytest.mark.usefixtures("only_loopback")
def test_broken_entries_are_shown_escaped_with_the_reason(redis_client: redis.Redis) -> None:
    in_order()
    redis_client.rpush("queue:roto", '{"phone":"519', b"\x80\x04", "", "<script>alert(1)</script>", '{"message":"x"}')
    run()
    for archives in (False, True):
        orphan = Orphan.objects.get()
        if archives:
            orphans.archive(orphan)
        response = boss().get(page_url("orphan", orphan.pk))
        assert "<script>alert(1)" not in response.content.decode()
        seen = text_of(response)
        for words in ("\\x80\\x04", "it is no JSON", "it is empty", "it names no phone", "cannot be read"):
            assert words in seen
    assert "nothing is restored" in text_of(preview(boss(), orphan)).lower()


@pytest.mark.usefixtures("only_loopback")
def test_what_was_sent_already_is_marked(redis_client: redis.Redis) -> None:
    sent = become(submit(make_session("other"), "text 0", client_ref="m1")[0], Status.SENT)
    in_order()
    legacy_list(redis_client, "gone", ["text 0"], id="m1")
    legacy_list(redis_client, "gone", ["text 1"], id="m2")
    run()
    orphan = Orphan.objects.get()
    client = boss()
    for _ in range(2):
        response = client.get(page_url("orphan", orphan.pk))
        assert text_of(response).count("sent already") == 1
        assert page_url("message", sent.pk) in response.content.decode()
        shown = preview(client, orphan).context["foresight"]
        assert shown.count == 1 and "1 was sent already" in " ".join(shown.sentences)
        assert preview(client, orphan, duplicates="on").context["foresight"].count == 2
        orphans.archive(orphan) if orphan.state == OrphanState.DETECTED else None
        orphan.refresh_from_db()


def test_recipients_and_texts_are_masked_without_the_permission(redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, "gone", ["a private matter"])
    redis_client.rpush(
        "queue:gone", b'{"phone":"51930246633","message":"cut', '{"phone":"5193024663399999999","message":"x"}'
    )
    run()
    client = person("view_orphan", "restore_orphan", "purge_orphan")
    for archives in (False, True):
        orphan = Orphan.objects.get()
        if archives:
            orphans.archive(orphan)
        seen = client.get(page_url("orphan", orphan.pk)).content.decode()
        assert "a private matter" not in seen and "930246633" not in seen
        assert "hidden" in seen
        assert orphan_url("export", orphan) not in seen
        assert client.post(orphan_url("export", orphan), {}).status_code == 403


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_escaped_and_can_be_dealt_with(name: str, redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, name, ["<img src=x onerror=alert(1)>"])
    run()
    orphan = Orphan.objects.get()
    make_session("target", desired_state="paused")
    client = boss()
    for url in (
        "/admin/", list_url("orphan"), list_url("queue"), page_url("orphan", orphan.pk),
        orphan_url("restore", orphan), orphan_url("purge", orphan), act_url("orphan", "archive", orphan.pk),
        act_url("orphan", "purge", orphan.pk), list_url("reconciliation"),
    ):  # fmt: skip
        response = client.get(url)
        assert response.status_code == 200, url
        assert inline_parts(response) == [], url
        assert "<script>alert" not in response.content.decode() and "<img src=x" not in response.content.decode(), url
        assert "\u202e" not in response.content.decode(), url
    line = client.get("/admin/").context["lines"][0]
    assert [row.pk for row in client.get(line.url).context["cl"].result_list] == [orphan.pk]
    confirm(client, "orphan", "archive", orphan.pk)
    shown = preview(client, orphan, to="other", session="target")
    client.post(orphan_url("restore", orphan), answer(shown))
    assert texts_in_line(sessions.get("target")) == ["<img src=x onerror=alert(1)>"]
    assert not redis_client.exists(f"queue:{name}")


# Archive


def test_a_live_one_is_archived_after_a_question(redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    client = person(*OPERATOR)
    assert "Archive 1 orphan?" in text_of(client.get(act_url("orphan", "archive", orphan.pk)))
    assert redis_client.llen("queue:gone") == 9
    assert "9 messages were archived." in text_of(confirm(client, "orphan", "archive", orphan.pk))
    orphan.refresh_from_db()
    assert (orphan.state, orphan.messages) == ("archived", 9)
    assert not redis_client.exists("queue:gone")
    assert [entry[1:] for entry in audited()] == [("archive orphan", "queue:gone")]


# Export


def test_it_is_exported_whole_and_that_is_written_down(redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, "gone", ["=1+1", "plain"])
    redis_client.rpush("queue:gone", b"\x80")
    run()
    orphan = Orphan.objects.get()
    client = person("view_orphan", "view_message_content")
    assert client.get(orphan_url("export", orphan)).status_code == 405
    response = client.post(orphan_url("export", orphan), {"format": "csv"})
    rows = list(csv.DictReader(b"".join(response.streaming_content).decode().splitlines()))
    assert [row["text"] for row in rows] == ["'=1+1", "plain", ""]
    response = client.post(orphan_url("export", orphan), {"format": "jsonl"})
    lines = b"".join(response.streaming_content).decode().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["=1+1", "plain", ""]
    assert [(entry.action, entry.count) for entry in AuditEntry.objects.filter(actor="person-0")] == [
        ("export orphan", 3), ("export orphan", 3),
    ]  # fmt: skip


# Who may


@pytest.mark.parametrize(
    ("what", "permission"),
    [("restore", "restore_orphan"), ("purge", "purge_orphan"), ("export", "view_message_content")],
)
def test_each_page_needs_its_own_permission_and_sight(what: str, permission: str, redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    others = {"view_orphan", "restore_orphan", "purge_orphan", "view_message_content", "add_session"} - {permission}
    url = orphan_url(what, orphan)
    for client in (person(*others), person(permission)):
        assert client.get(url).status_code == 403
        assert client.post(url, {"expected": "9", "shown": "9", "typed": "9", "to": "own"}).status_code == 403
    assert url not in person(*others).get(page_url("orphan", orphan.pk)).content.decode()
    assert url in person("view_orphan", permission).get(page_url("orphan", orphan.pk)).content.decode()
    assert Orphan.objects.get().state == OrphanState.ARCHIVED


@pytest.mark.parametrize(
    ("act", "permission"), [("archive", "restore_orphan"), ("restore", "restore_orphan"), ("purge", "purge_orphan")]
)
def test_each_act_needs_its_own_permission(act: str, permission: str, redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    others = {"view_orphan", "restore_orphan", "purge_orphan"} - {permission}
    client = person(*others)
    assert client.get(act_url("orphan", act, orphan.pk)).status_code == 403
    assert client.post(act_url("orphan", act), {"ids": str(orphan.pk), "confirmed": "yes"}).status_code == 403
    assert f'value="{act}"' not in client.get(list_url("orphan")).content.decode()
    assert redis_client.llen("queue:gone") == 9


def test_nothing_is_changed_by_looking(redis_client: redis.Redis) -> None:
    orphan = live(redis_client)
    client = boss()
    for url in (
        page_url("orphan", orphan.pk), orphan_url("restore", orphan), orphan_url("purge", orphan), list_url("orphan"),
        *(act_url("orphan", act, orphan.pk) for act in ("archive", "restore", "purge")),
    ):  # fmt: skip
        client.get(url, {"confirmed": "yes", "expected": "9", "shown": "9", "typed": "9", "preview": "1"})
    orphan.refresh_from_db()
    assert orphan.state == OrphanState.DETECTED and redis_client.llen("queue:gone") == 9
    assert not Session.objects.exists() and audited() == []


# Sessions


ADD = {
    "min_interval_ms": "0", "max_interval_ms": "0", "per_recipient_ms": "0", "hourly_cap": "0", "daily_cap": "0",
    "quiet_start": "", "quiet_end": "", "quiet_tz": "", "on_uncertain": "hold", "config_delay_ms": "0",
    "config_fail_rate": "0", "config_fail_as": "rejected", "start_paused": "on",
}  # fmt: skip


def test_a_new_session_says_what_it_got_back_and_what_waits(redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, "gone", ["old", "older"], hours_ago=50)
    legacy_list(redis_client, "gone", ["young"])
    client = boss()
    address = "/admin/sessions_app/session/add/?transport=loopback"
    response = client.post(address, {"name": "gone", **ADD}, follow=True)
    seen = text_of(response)
    assert "1 message that waited under its name was put into its line" in seen
    assert "2 older messages under its name wait for you to decide" in seen
    orphan = Orphan.objects.get()
    assert page_url("orphan", orphan.pk) in response.content.decode()
    assert "2 messages under this name wait in an orphan" in text_of(
        client.get(page_url("session", sessions.get("gone").pk))
    )


def test_a_deleted_session_may_leave_its_messages_as_an_orphan() -> None:
    session = make_session("shop")
    submit(session, "one", "two")
    client = boss()
    url = f"/admin/sessions_app/session/{session.pk}/delete/"
    assert "Keep those 2 messages as an orphan" in text_of(client.get(url))
    changed = client.post(url, {"unsent": "orphan", "expected": "1"})
    assert "has changed since you looked" in text_of(changed)
    response = client.post(url, {"unsent": "orphan", "expected": "2"}, follow=True)
    assert "Messages kept as an orphan: 2." in text_of(response)
    orphan = Orphan.objects.get()
    assert page_url("orphan", orphan.pk) in response.content.decode()
    message = Message.objects.first()
    assert message is not None
    assert page_url("orphan", orphan.pk) in client.get(page_url("message", message.pk)).content.decode()
