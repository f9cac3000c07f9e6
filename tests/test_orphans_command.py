"""`manage.py orphans` and `replay_incident`: the same door as the admin's, with clear words for what does not fit."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import connections

from sessions_app.models import AuditEntry, BackgroundTask, Message, Orphan, Session
from sessions_app.queues import keys
from sessions_app.services import sessions, tasks
from tests.factories import ACTOR, make_session
from tests.hostile_lab import leave_jobs
from tests.orphan_lab import archived, live
from tests.reconciliation_lab import in_order, legacy_entry, picture_of_redis, run, texts_in_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]


def orphans(*arguments: object) -> str:
    """Run the command; return what it prints."""
    out = io.StringIO()
    call_command("orphans", *(str(argument) for argument in arguments), stdout=out)
    return out.getvalue()


def test_a_session_that_is_made_gets_what_was_chosen_and_no_more(redis_client: redis.Redis) -> None:
    orphan = archived(redis_client)
    done = orphans("restore", orphan.pk, "--create", "--transport", "loopback", "--index", "3")
    assert "1 messages restored to gone; 8 left" in done
    assert texts_in_line(sessions.get("gone")) == ["text 3"]


def test_on_which_transport_a_session_is_made_has_to_be_said_where_there_are_several(
    redis_client: redis.Redis,
) -> None:
    orphan = live(redis_client)
    with pytest.raises(CommandError, match="say on which the session is to be made: loopback or waha"):
        orphans("restore", orphan.pk, "--create")
    with pytest.raises(CommandError, match="a session on waha needs settings: add the session first"):
        orphans("restore", orphan.pk, "--create", "--transport", "waha")
    with pytest.raises(CommandError, match="say --create too"):
        orphans("restore", orphan.pk, "--transport", "loopback")
    assert not Session.objects.exists()
    assert redis_client.llen("queue:gone") == 9


def test_a_session_that_is_there_is_taken_but_not_one_on_another_transport(redis_client: redis.Redis) -> None:
    first, second = archived(redis_client, "first", 2, hours_ago=50), archived(redis_client, "second", 2, hours_ago=50)
    for name in ("first", "second"):
        make_session(name, desired_state="paused")
    with pytest.raises(
        CommandError, match="'first' exists, on loopback: to restore into it, do not ask for one on waha"
    ):
        orphans("restore", first.pk, "--create", "--transport", "waha")
    assert not Message.objects.exists()
    assert "2 messages restored to second" in orphans("restore", second.pk, "--create")
    assert "2 messages restored to first" in orphans("restore", first.pk, "--create", "--transport", "loopback")


def test_many_are_restored_by_a_worker(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LARGE", 3)
    orphan, beta = archived(redis_client), make_session("beta")
    assert "9 messages are restored by a worker: task" in orphans("restore", orphan.pk, "--session", "beta")
    tasks.run(BackgroundTask.objects.get().pk)
    assert len(texts_in_line(beta)) == 9


@pytest.mark.parametrize("act", [("restore", "--session", "beta"), ("purge", "--expect", "9")])
@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--newer-than", "ask", "'ask' is no age: write one like 90m, 24h or 7d"),
        ("--newer-than", "always", "'always' is no age"),
        ("--newer-than", "1x", "'1x' is no age"),
        ("--index", "-1", "'-1' is no place: they count from 0"),
        ("--index", "x", "'x' is no place: they count from 0"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_words(
    act: tuple[str, ...], option: str, value: str, why: str, redis_client: redis.Redis
) -> None:
    orphan = archived(redis_client)
    make_session("beta")
    with pytest.raises(CommandError, match=why):
        orphans(act[0], orphan.pk, *act[1:], option, value)
    assert not Message.objects.exists()
    orphan.refresh_from_db()
    assert orphan.messages == 9


def test_places_are_the_same_in_what_is_shown_chosen_and_exported(
    redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    orphan, beta = archived(redis_client, count=3), make_session("beta")
    assert [line.split()[0] for line in orphans("show", orphan.pk).splitlines()[1:]] == ["0", "1", "2"]
    orphans("export", orphan.pk)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["index"], row["text"]) for row in rows] == [(at, f"text {at}") for at in range(3)]
    assert AuditEntry.objects.get(action="export orphan").count == 3
    orphans("restore", orphan.pk, "--session", "beta", "--index", "1")
    assert texts_in_line(beta) == ["text 1"]


def test_what_a_terminal_would_act_on_is_shown_escaped(redis_client: redis.Redis) -> None:
    in_order()
    redis_client.rpush("queue:\x1b]0;name\x07", legacy_entry("\x1b[2Jgone\r\nnext"), b"\x1b[31mbroken")
    run()
    orphan = Orphan.objects.get()
    for printed in (orphans("show", orphan.pk), orphans("list"), orphans("archive", orphan.pk)):
        assert not set("\x1b\x07\r") & set(printed)
    assert r"\x1b[2Jgone\r\nnext" in orphans("show", orphan.pk)


@pytest.mark.fault(34)
def test_jobs_that_would_run_code_are_listed_shown_and_exported_and_run_nothing(
    redis_client: redis.Redis, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_order()
    count = len(leave_jobs(redis_client, "wa:gone", ran))
    call_command("reconcile_queues", stdout=io.StringIO())
    orphan = Orphan.objects.get()
    assert str(count) in orphans("list")
    assert 'unreadable (no phone): {"id": "names-os-system"' in orphans("show", orphan.pk)
    capsys.readouterr()
    orphans("export", orphan.pk)
    assert len(capsys.readouterr().out.splitlines()) == count


def test_without_postgresql_it_says_so_in_one_line_and_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    connections["default"].close()
    monkeypatch.setitem(connections["default"].settings_dict, "PORT", "1")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {})
    try:
        with pytest.raises(CommandError, match=r"^PostgreSQL could not be asked: [^\n]+$") as refused:
            orphans("list")
    finally:
        connections["default"].close()
    assert refused.value.returncode == 2


# replay_incident


def replay() -> None:
    call_command("replay_incident", stdout=io.StringIO())


def refused(client: redis.Redis, why: str) -> None:
    """It says why, and loads nothing."""
    before = picture_of_redis(client)
    with pytest.raises(CommandError, match=why):
        replay()
    assert picture_of_redis(client) == before


def test_the_incident_is_loaded_beside_sessions_on_loopback(redis_client: redis.Redis) -> None:
    in_order()
    make_session("default")
    replay()
    assert redis_client.llen("queue:default") == 15


def test_the_incident_is_not_loaded_into_the_redis_of_another_waqueue(redis_client: redis.Redis) -> None:
    redis_client.hset(keys.META, "deployment", "somebody-else")
    refused(redis_client, "belongs to the waqueue database somebody-else.*Nothing was loaded")


def test_the_incident_is_not_loaded_where_it_would_reach_phones(redis_client: redis.Redis) -> None:
    in_order()
    real, _ = sessions.create(
        name="default", transport="waha", config={"base_url": "http://waha.invalid", "api_key": "x"}, actor=ACTOR
    )
    refused(redis_client, "the session default is not on loopback.*delete it first")
    sessions.delete(real, actor=ACTOR)
    replay()


def test_the_incident_is_not_loaded_where_nobody_looks_for_it(redis_client: redis.Redis, settings: Any) -> None:
    settings.WAQUEUE_LEGACY_PREFIX = ""
    refused(redis_client, "WAQUEUE_LEGACY_PREFIX is empty.*set it")
