"""Strangers write into the queue of a session that sends: it goes on, nothing of theirs runs, and all of it is kept."""

import pickle
from pathlib import Path

import pytest
import redis
from django.db.models import Sum

from sessions_app.models import Message, Orphan, OrphanState, Status
from sessions_app.queues import keys
from tests import hostile_lab
from tests.acceptance.engine import Engine, Gate
from tests.acceptance.stack import Stack
from tests.hostile_lab import Bomb, leave_jobs
from tests.processes import wait_until
from tests.reconciliation_lab import found, run_when_alone

pytestmark = [
    pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("known_redis"),
    pytest.mark.fault(26), pytest.mark.fault(34),
]  # fmt: skip


def kept() -> int:
    """How many entries were copied out of Redis whole."""
    return Orphan.objects.filter(state=OrphanState.ARCHIVED).aggregate(sum=Sum("messages"))["sum"] or 0


def test_a_session_sends_all_of_its_messages_once_while_its_queue_is_full_of_garbage(
    stack: Stack, engine: Engine, ran: Path
) -> None:
    client = redis.Redis.from_url(stack.redis.url)
    gate = engine.on_send = Gate(held=10)
    session = engine.session("s")
    submitted = stack.submit(session, range(20))
    # Before, between and behind its own jobs; and in one of those, which goes while all of that is there.
    queue = keys.queue_key("s")
    ids = leave_jobs(client, "wa:s", ran)
    client.lpush(queue, *ids[:5])
    client.linsert(queue, "BEFORE", str(submitted[12].pk), b"\x80\x04\x95\xff\x00")
    spoilt = hostile_lab.jobs(ran)
    client.hset(keys.job_key(submitted[11].pk), mapping=spoilt[b"pickled"])  # type: ignore[arg-type]
    client.hset(keys.job_key(submitted[13].pk), mapping=spoilt[b"pickled-in-meta"])  # type: ignore[arg-type]
    worker = stack.ready_worker(WAQUEUE_RECONCILE_SECONDS="1")
    wait_until(lambda: engine.ledger(session)[-1:] == [10], 60, "half of them are sent")
    wait_until(lambda: kept() == len(ids) + 1, 60, "the garbage is archived meanwhile")
    assert stack.count(Status.SENT) == 10
    # And once more, while it sends: the same, which are known again, and three others.
    leave_jobs(client, "wa:s", ran)
    client.rpush(queue, b"no job either", b"\xff", pickle.dumps(Bomb(ran)))
    gate.is_open = True
    stack.wait_for(20, Status.SENT, within_s=60)
    wait_until(lambda: kept() == len(ids) + 1 + 3, 60, "that is archived, too")
    assert engine.ledger(session) == list(range(20))
    assert set(Message.objects.values_list("attempts", flat=True)) == {1}
    assert set(Orphan.objects.values_list("session", flat=True)) == {session.pk}
    wait_until(lambda: not client.exists(queue), 60, "nothing is left in the queue")
    assert worker.is_running()
    worker.kill()
    run_when_alone()
    assert found(run_when_alone()) == []
