"""An archiving that is killed at any of its steps is finished by the next run: nothing lost, nothing twice."""

import os
import re
import signal
import sys
from collections.abc import Callable

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.models import Message, Orphan, OrphanEntry, OrphanState, Reconciliation, Session
from sessions_app.queues import keys
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans, sessions
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import PROJECT, Process, wait_until
from tests.reconciliation_lab import found, in_order, legacy_list, run_when_alone, stock_queue, texts_in_line, texts_of

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(16)]

# More than one part of a copy holds.
TEXTS = [str(number) for number in range(700)]
STEPS = [
    "archive: row written",
    "archive: list renamed",
    "archive: part copied",
    "archive: list copied",
    "archive: row archived",
    "archive: Redis cleaned",
]


def test_every_step_of_the_archive_is_crossed_here() -> None:
    code = "\n".join(path.read_text() for path in (PROJECT / "sessions_app" / "services").rglob("*.py"))
    assert sorted(re.findall(r'reach\("(archive: [^"]+)"\)', code)) == sorted(STEPS)


@pytest.fixture
def client(stack: Stack) -> redis.Redis:
    """Return a client of the Redis under test, which is in order."""
    in_order()
    return redis.Redis.from_url(stack.redis.url)


@pytest.fixture
def reconcile(stack: Stack, process: Callable[..., Process]) -> Callable[..., Process]:
    """Return `reconcile(*arguments, **environ)`: start the command."""

    def make(log: object, environ: dict[str, str], *arguments: str) -> Process:
        return Process([sys.executable, "manage.py", "reconcile_queues", *arguments], environ, log)  # type: ignore[arg-type]

    return lambda *arguments, **environ: process(make, stack.environ | environ, *arguments)


def places(client: redis.Redis) -> list[str]:
    """Every text, once for each place that it stands in: a list in Redis, or a committed entry that is not a copy."""
    staged = {bytes(key): pk for pk, key in Orphan.objects.exclude(is_cleaned=True).values_list("pk", "staging_key")}
    texts: list[str] = []
    for key in [*client.scan_iter("rq:queue:wa:*"), *client.scan_iter("waqueue:archive:*")]:
        if Orphan.objects.filter(pk=staged.get(key), state=OrphanState.ARCHIVED).exists():
            # Copied and committed, and about to be deleted.
            continue
        queue = Queue("any", connection=client, serializer=JSONSerializer)
        for job in client.lrange(key, 0, -1):
            fetched = queue.job_class.fetch(job.decode(), connection=client, serializer=JSONSerializer)
            texts.append(fetched.kwargs["text"])
    kept = OrphanEntry.objects.filter(orphan__state=OrphanState.ARCHIVED, restored_at=None)
    return [*texts, *(entry.content["text"] for entry in kept)]


def assert_whole_and_restorable(client: redis.Redis) -> None:
    orphan = Orphan.objects.get()
    assert (orphan.state, orphan.messages, orphan.is_cleaned) == (OrphanState.ARCHIVED, len(TEXTS), True)
    assert texts_of(orphan) == TEXTS
    assert [key for key in client.scan_iter() if key.startswith((b"rq:job:", b"rq:queue", b"waqueue:archive"))] == []
    beta = sessions.create(name="beta", actor=ACTOR, desired_state="paused")[0]
    assert orphans.restore(orphan, beta, actor=ACTOR).restored == len(TEXTS)
    assert texts_in_line(beta) == TEXTS
    assert Message.objects.count() == len(TEXTS) == client.llen(keys.queue_key("beta"))


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_it_is_finished_by_the_next_run(
    step: str, client: redis.Redis, reconcile: Callable[..., Process]
) -> None:
    stock_queue(client, "gone", TEXTS)
    assert reconcile(WAQUEUE_TEST_CRASH_AT=step).wait(60) == -signal.SIGKILL
    assert sorted(places(client)) == sorted(TEXTS)
    assert run_when_alone().outcome == "repaired"
    assert_whole_and_restorable(client)
    assert found(run_when_alone()) == []


@pytest.mark.parametrize("step", ["archive: list renamed", "archive: part copied"])
def test_a_late_producer_begins_a_new_list_which_is_an_orphan_of_its_own(
    step: str, client: redis.Redis, reconcile: Callable[..., Process]
) -> None:
    stock_queue(client, "gone", TEXTS)
    assert reconcile(WAQUEUE_TEST_CRASH_AT=step).wait(60) == -signal.SIGKILL
    stock_queue(client, "gone", ["late", "later"])
    assert sorted(places(client)) == sorted([*TEXTS, "late", "later"])
    run_when_alone()
    first, second = Orphan.objects.order_by("-messages")
    assert (texts_of(first), texts_of(second)) == (TEXTS, ["late", "later"])
    assert {first.state, second.state} == {OrphanState.ARCHIVED}


def test_a_session_that_is_made_before_it_is_finished_gets_what_is_young_of_it(
    client: redis.Redis, reconcile: Callable[..., Process]
) -> None:
    stock_queue(client, "gone", TEXTS)
    assert reconcile(WAQUEUE_TEST_CRASH_AT="archive: list renamed").wait(60) == -signal.SIGKILL
    sessions.create(name="gone", actor=ACTOR, desired_state="paused")
    run_when_alone()
    assert texts_in_line(Session.objects.get()) == TEXTS
    assert Orphan.objects.get().state == OrphanState.RESTORED


def test_an_adoption_that_is_killed_is_finished_by_the_next_run(
    client: redis.Redis, reconcile: Callable[..., Process]
) -> None:
    sessions.create(name="gone", actor=ACTOR, desired_state="paused")
    legacy_list(client, "gone", TEXTS)
    assert reconcile(WAQUEUE_TEST_CRASH_AT="archive: row archived").wait(60) == -signal.SIGKILL
    run_when_alone()
    assert texts_in_line(Session.objects.get()) == TEXTS
    assert Orphan.objects.get().state == OrphanState.RESTORED
    assert list(client.scan_iter("waqueue:archive:*")) == []


def test_a_row_that_is_lost_with_an_older_database_does_not_lose_the_renamed_list(
    client: redis.Redis, reconcile: Callable[..., Process]
) -> None:
    stock_queue(client, "gone", TEXTS)
    assert reconcile(WAQUEUE_TEST_CRASH_AT="archive: list renamed").wait(60) == -signal.SIGKILL
    Orphan.objects.all().delete()
    stock_queue(client, "gone", ["late"])
    run_when_alone(policy=Policy.REPORT)
    assert run_when_alone(policy=Policy.ARCHIVE).outcome == "repaired"
    assert sorted(orphan.messages for orphan in Orphan.objects.filter(state=OrphanState.ARCHIVED)) == [1, len(TEXTS)]
    assert sorted(places(client)) == sorted([*TEXTS, "late"])


def test_of_two_at_once_one_acts_and_the_other_leaves(client: redis.Redis, reconcile: Callable[..., Process]) -> None:
    stock_queue(client, "gone", TEXTS)
    first = reconcile()
    # Stopped in its pause between the two looks, it holds the lock for as long as this test likes.
    wait_until(Reconciliation.objects.exists, 60, "the first begins")
    first.send(signal.SIGSTOP)
    second = reconcile()
    assert second.wait(60) == 2
    assert "Another process is reconciling just now" in second.output
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(60) == 0
    assert_whole_and_restorable(client)
