"""One store restored from a backup and the other not: nothing is sent again, and nothing vanishes."""

import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis
from django.db import connection
from psycopg import sql
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.models import BackgroundTask, DesiredState, LoopbackEntry, Message, Orphan, Session, Status, new_id
from sessions_app.queues import keys
from sessions_app.queues.connection import deployment_id
from sessions_app.services import sessions
from tests.acceptance.engine import Engine
from tests.acceptance.stack import ACTOR, Stack
from tests.processes import Process, wait_until
from tests.reconciliation_lab import in_order, newest_token, run_when_alone, texts_in_line, texts_of

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]


class Backups:
    """The database under test, kept as it is, and brought back."""

    def __init__(self) -> None:
        self._name = str(connection.settings_dict["NAME"])
        self.kept = f"{self._name}_backup"
        parameters = connection.get_connection_params()
        for name in ("cursor_factory", "context", "pool", "prepare_threshold"):
            parameters.pop(name, None)
        self._maintenance = psycopg.connect(**parameters | {"dbname": "postgres"}, autocommit=True)

    def keep(self) -> None:
        """Back the database up."""
        self._copy(self._name, self.kept)

    def go_back(self) -> None:
        """Restore the backup in the place of the database."""
        self._copy(self.kept, self._name)

    def close(self) -> None:
        """Remove the backup."""
        self._drop(self.kept)
        self._maintenance.close()

    def _copy(self, source: str, target: str) -> None:
        connection.close()
        connection.close_pool()
        self._drop(target)
        self._maintenance.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [source])
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._maintenance.execute(copy.format(sql.Identifier(target), sql.Identifier(source)))

    def _drop(self, name: str) -> None:
        self._maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def backups(stack: Stack) -> Any:
    made = Backups()
    yield made
    made.close()


@pytest.fixture
def client(stack: Stack) -> redis.Redis:
    in_order()
    return redis.Redis.from_url(stack.redis.url)


def picture(client: redis.Redis) -> dict[bytes, Any]:
    """Everything but what an rq worker says of itself."""
    own = (b"rq:worker", b"rq:clean_registries", b"rq:queues")
    return {key: client.dump(key) for key in client.scan_iter() if not key.startswith(own)}


@pytest.mark.fault(14)
def test_a_database_that_is_older_than_redis_sends_nothing_again_and_loses_nothing(
    stack: Stack, client: redis.Redis, backups: Backups
) -> None:
    alpha, beta = stack.session("alpha"), stack.session("beta", desired_state="paused")
    stack.submit(alpha, range(5))
    stack.submit(beta, range(3))
    backups.keep()

    # The future that is going to be lost: five are sent, two more wait, and there is another session.
    worker = stack.worker()
    stack.wait_for(5, Status.SENT, within_s=60)
    wait_until(lambda: int(client.hget(keys.META, "mark") or 0) >= 5, 20, "the mark")
    mark = int(client.hget(keys.META, "mark") or 0)
    alpha.refresh_from_db()
    sessions.act(alpha, "pause", actor=ACTOR)
    stack.submit(alpha, [100, 101])
    gamma = stack.session("gamma", desired_state=DesiredState.PAUSED)
    stack.submit(gamma, range(4))
    wait_until(lambda: client.zcard(keys.DUE) == 0, 20, "nobody is due")
    worker.kill()
    backups.go_back()
    assert Session.objects.count() == 2
    assert newest_token() < mark

    worker = stack.worker()
    wait_until(lambda: newest_token() >= mark, 60, "the sequence is raised above the mark")
    wait_until(lambda: Orphan.objects.filter(state="archived").count() == 2, 60, "what nobody knows is archived")
    assert list(Message.objects.filter(session=alpha).values_list("status", flat=True)) == ["uncertain"] * 5
    orphans = {orphan.source: orphan for orphan in Orphan.objects.all()}
    assert texts_of(orphans["unknown_jobs"]) == ["100", "101"]
    assert orphans["unknown_jobs"].session == alpha
    assert (orphans["rq"].session_name, texts_of(orphans["rq"])) == ("gamma", ["0", "1", "2", "3"])
    # What had not been sent in any future goes, and what comes new.
    sessions.act(beta, "resume", actor=ACTOR)
    stack.submit(Session.objects.get(name="alpha"), [200])
    again, adopted = sessions.create(name="gamma", actor=ACTOR)
    assert adopted is not None
    assert adopted.restored == 4
    stack.wait_for(8, Status.SENT, within_s=60)
    assert stack.ledger("alpha") == [200]
    stack.assert_in_order_and_once("beta", 3)
    stack.assert_in_order_and_once(again, 4)
    assert stack.count(Status.UNCERTAIN) == 5
    assert "5 messages may have been sent before the backup was restored" in worker.output


@pytest.mark.fault(14)
def test_a_worker_that_lives_through_it_sends_nothing_again(
    stack: Stack, client: redis.Redis, backups: Backups, engine: Engine
) -> None:
    alpha, beta = engine.session("alpha"), engine.session("beta", desired_state="paused")
    stack.submit(alpha, range(5))
    stack.submit(beta, range(3))
    backups.keep()
    worker = stack.worker()
    stack.wait_for(5, Status.SENT, within_s=60)
    alpha.refresh_from_db()
    sessions.act(alpha, "pause", actor=ACTOR)
    wait_until(lambda: client.zcard(keys.DUE) == 0, 20, "nobody is due")
    backups.go_back()
    assert not Message.objects.filter(status=Status.SENT).exists()

    said = "5 messages that may have been sent are uncertain now"
    wait_until(lambda: said in worker.output, 90, "the worker finds it older than Redis")
    stack.submit(Session.objects.get(name="alpha"), [200])
    sessions.act(Session.objects.get(name="beta"), "resume", actor=ACTOR)
    ends = {"alpha": [*range(5), 200], "beta": [0, 1, 2]}
    wait_until(lambda: {name: engine.ledger(name) for name in ends} == ends, 90, "what was not sent goes")
    stack.wait_for(4, Status.SENT, within_s=30)
    assert worker.is_running()
    assert not client.exists(keys.queue_key("alpha"), keys.queue_key("beta"))
    assert stack.count(Status.QUEUED, Status.SENDING) == 0
    assert len(engine.accepted) == 9


@pytest.mark.fault("14b")
def test_another_database_on_the_same_redis_only_reports(
    stack: Stack, client: redis.Redis, backups: Backups, process: Callable[..., Process]
) -> None:
    alpha = stack.session("alpha", desired_state="paused")
    stack.submit(alpha, range(3))
    client.rpush("rq:queue:wa:gone", "a job")
    client.rpush("queue:alpha", "an entry")
    ours = deployment_id()
    # Their worker has a long act to do; in this Redis, somebody's job stands on the queue for these.
    BackgroundTask.objects.create(kind="purge orphan", title="a long act", actor="x")
    Queue("default", connection=client, serializer=JSONSerializer).enqueue("another.app.act", job_id="anothers")
    backups.keep()
    theirs = stack.environ["DATABASE_URL"].replace(str(connection.settings_dict["NAME"]), backups.kept)
    with psycopg.connect(theirs, autocommit=True) as other:
        other.execute("UPDATE wa_deployment SET id = %s", [new_id()])
        other.execute("UPDATE wa_session SET desired_state = 'active'")
    before = picture(client)
    environ = stack.environ | {"DATABASE_URL": theirs}

    def command(log: Any, environ: dict[str, str]) -> Process:
        return Process([sys.executable, "manage.py", "reconcile_queues", "--policy", "purge"], environ, log)

    reported = process(command, environ)
    # Before the worker starts: of two runs at once, one says only that there is another.
    assert reported.wait(60) == 1
    worker = stack.worker(DATABASE_URL=theirs)
    assert "other_deployment" in reported.output
    assert f"this Redis belongs to the waqueue database {ours}" in reported.output
    refused = f"waits and tries again: this Redis belongs to the waqueue database {ours}"
    for what in ("claiming", "looking for long acts"):
        wait_until(lambda said=f"{what} {refused}": said in worker.output, 60, f"the worker says so when {what}")
    with psycopg.connect(theirs, autocommit=True) as other:
        assert other.execute("SELECT count(*) FROM wa_orphan").fetchone() == (0,)
        assert other.execute("SELECT DISTINCT status FROM wa_message").fetchall() == [("queued",)]
        assert other.execute("SELECT count(*) FROM wa_attempt").fetchone() == (0,)
    worker.kill()
    assert picture(client) == before


@pytest.mark.fault(10)
def test_a_redis_that_comes_back_with_old_data_sends_nothing_again(stack: Stack, client: redis.Redis) -> None:
    alpha = stack.session("alpha")
    stack.submit(alpha, range(5))
    old = {key: client.dump(key) for key in client.scan_iter()}
    worker = stack.worker()
    stack.wait_for(5, Status.SENT, within_s=60)
    worker.kill()
    sessions.act(alpha, "pause", actor=ACTOR)
    stack.submit(alpha, range(5, 8))
    # Another life of Redis, with what it had kept of an earlier one.
    stack.redis.stop()
    stack.redis.start()
    client.flushdb()
    for key, value in old.items():
        client.restore(key, 0, value)
    run_when_alone()
    assert client.llen(keys.queue_key("alpha")) == 3
    assert len(list(client.scan_iter("rq:job:*"))) == 3
    assert texts_in_line(alpha) == ["5", "6", "7"]
    sessions.act(alpha, "resume", actor=ACTOR)
    stack.worker()
    stack.wait_for(8, Status.SENT, within_s=60)
    stack.assert_in_order_and_once(alpha, 8)
    assert LoopbackEntry.objects.count() == 8
    assert not client.exists(keys.queue_key("alpha"))
