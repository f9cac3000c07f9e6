"""The incident that waqueue was born from: 24 messages stuck in Redis, 9 of them of a session that nobody has."""

import re
import sys
from collections.abc import Callable

import pytest
import redis

from sessions_app.models import LoopbackEntry, Message, Orphan, OrphanState, Reconciliation, Status
from sessions_app.services import orphans, sessions
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import Process, find_free_port, gunicorn, wait_until
from tests.reconciliation_lab import in_order, texts_in_line

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

ODD = "queue:../otra sesión*?[x]"


@pytest.fixture
def client(stack: Stack) -> redis.Redis:
    return redis.Redis.from_url(stack.redis.url)


@pytest.fixture
def manage(stack: Stack, process: Callable[..., Process]) -> Callable[..., Process]:
    def make(log: object, environ: dict[str, str], *arguments: str) -> Process:
        return Process([sys.executable, "manage.py", *arguments], environ, log)  # type: ignore[arg-type]

    return lambda *arguments: process(make, stack.environ, *arguments)


def started(process: Callable[..., Process], stack: Stack) -> Process:
    """Start a web server; return it once its start-up reconciliation is told of."""
    port = find_free_port()
    server = process(gunicorn, stack.environ, port)
    wait_until(lambda: "Booting worker" in server.output, 60, "the web server is up")
    # Five seconds from being up, and what an overloaded machine takes to import Django.
    wait_until(lambda: Reconciliation.objects.exclude(outcome="running").exists(), 20, "the start-up reconciliation")
    run = Reconciliation.objects.get()
    assert run.trigger == "startup"
    assert (run.finished_at - run.started_at).total_seconds() < 5
    return server


def lists_of_the_orphans(output: str) -> dict[str, list[str]]:
    """The command's table of orphans by queue: state, messages, unreadable."""
    rows = {}
    for row in output.splitlines()[1:]:
        cells = re.split(r"\s{2,}", row.strip())
        rows[cells[1]] = cells[3:6]
    return rows


def told(server: Process, queue: str, count: int) -> bool:
    return bool(
        re.search(rf"list {re.escape(queue)} of the old service, session '.*': {count} messages", server.output)
    )


def sent(name: str) -> list[str]:
    entries = LoopbackEntry.objects.filter(session_name=name).order_by("id")
    return [entry.content["text"] for entry in entries]


def test_with_its_own_dates_everything_waits_for_a_person_and_log_command_and_database_agree(
    stack: Stack, client: redis.Redis, manage: Callable[..., Process], process: Callable[..., Process]
) -> None:
    default = stack.session("default")
    in_order()
    loading = manage("replay_incident", "--dates", "original")
    assert loading.wait(60) == 0
    assert "queue:default: 15 entries" in loading.output
    server = started(process, stack)
    by_queue = {orphan.queue: orphan for orphan in Orphan.objects.all()}
    assert {name: (one.state, one.messages, one.source) for name, one in by_queue.items()} == {
        "queue:default": ("archived", 15, "legacy"),
        "queue:940740243": ("detected", 9, "legacy"),
        "queue:roto": ("detected", 5, "legacy"),
        ODD: ("detected", 1, "legacy"),
    }
    assert by_queue["queue:default"].session == default
    wait_until(lambda: told(server, "queue:940740243", 9), 10, "the log tells of the nine")
    for queue, count in (("queue:default", 15), ("queue:roto", 5), (ODD, 1)):
        assert told(server, queue, count)
    assert "key queue:contador is no queue" in server.output
    listing = manage("orphans", "list")
    assert listing.wait(60) == 0
    assert lists_of_the_orphans(listing.output) == {
        "queue:default": ["archived", "15", "0"],
        "queue:940740243": ["detected", "9", "0"],
        "queue:roto": ["detected", "5", "0"],
        ODD: ["detected", "1", "0"],
    }
    assert client.get("queue:contador") == b"42"
    assert Message.objects.count() == 0
    # A second start has nothing to add.
    server.stop()
    Reconciliation.objects.all().delete()
    started(process, stack)
    assert Orphan.objects.count() == 4
    # The old ones are sent by a person's act only, all of them, in order.
    by_queue["queue:default"].refresh_from_db()
    texts = [entry.text for entry in orphans.entries(by_queue["queue:default"])]
    assert orphans.restore(by_queue["queue:default"], default, actor=ACTOR).restored == 15
    assert texts_in_line(default) == texts


def test_with_young_dates_the_fifteen_are_sent_in_order_and_the_nine_once_their_session_is_made(
    stack: Stack, client: redis.Redis, manage: Callable[..., Process], process: Callable[..., Process]
) -> None:
    stack.session("default")
    in_order()
    assert manage("replay_incident").wait(60) == 0
    before = {
        name: [
            orphans.archiving.build_entry(Orphan(), 0, one) for one in orphans.archiving.lists.read(key, 0, is_rq=False)
        ]
        for name, key in (("default", b"queue:default"), ("940740243", b"queue:940740243"))
    }
    # A worker is a start as well.
    worker = stack.worker()
    stack.wait_for(15, Status.SENT, within_s=60)
    assert sent("default") == [entry.content["text"] for entry in before["default"]]
    run = Reconciliation.objects.filter(trigger="startup").get()
    assert run.findings.get(queue="queue:default").action == "adopted"
    assert not client.exists("queue:default")
    assert client.llen("queue:940740243") == 9
    _, adopted = sessions.create(name="940740243", actor=ACTOR)
    assert adopted is not None
    assert (adopted.restored, adopted.waiting) == (9, [])
    stack.wait_for(24, Status.SENT, within_s=60)
    assert sent("940740243") == [entry.content["text"] for entry in before["940740243"]]
    assert Message.objects.count() == 24
    refs = set(Message.objects.values_list("client_ref", flat=True))
    assert refs == {entry.job_id for entries in before.values() for entry in entries}
    assert len(refs) == 24
    assert not client.exists("queue:default", "queue:940740243")
    assert worker.is_running()
    # Of the broken ones none can be sent, by nobody.
    roto, adopted = sessions.create(name="roto", actor=ACTOR)
    assert adopted is not None
    (orphan,) = adopted.waiting
    assert (orphan.state, orphan.messages, orphan.unreadable) == (OrphanState.ARCHIVED, 5, 5)
    assert orphans.restore(orphan, roto, actor=ACTOR, with_duplicates=True).restored == 0
    assert [entry.raw for entry in orphans.entries(orphan)] == [
        '{"phone":"51911111111","message":"sin cerrar', "hola", r"\x80\x04\x95\xff\x00", "",
        '{"message":"sin destinatario"}',
    ]  # fmt: skip
    shown = manage("orphans", "show", str(orphan.pk))
    assert shown.wait(60) == 0
    assert r"\x80\x04\x95\xff\x00" in shown.output
    assert client.get("queue:contador") == b"42"
    assert sorted(client.scan_iter("queue:*")) == sorted([b"queue:contador", ODD.encode()])


def test_loading_it_twice_changes_nothing(client: redis.Redis, manage: Callable[..., Process]) -> None:
    assert manage("replay_incident").wait(60) == 0
    before = {key: client.dump(key) for key in client.scan_iter()}
    again = manage("replay_incident")
    assert again.wait(60) == 1
    assert "is there already: nothing was loaded" in again.output
    assert {key: client.dump(key) for key in client.scan_iter()} == before
