"""One long queue: reconciliation stays bounded in memory, and Redis serves others meanwhile."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings
from django.db import connection

from sessions_app.models import Message, Session, SessionCounter
from sessions_app.queues import keys
from tests.factories import job_ids, line, make_session, submit
from tests.lengths import how_many
from tests.processes import PROJECT
from tests.reconciliation_lab import found, in_order, run
from tests.size_lab import assert_redis_is_never_blocked, clone, clone_session

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]

LONG = how_many(100_000, full=1_000_000)
# What a look at one job more may cost: less than its id takes twice.
_BYTES_A_JOB = 250
QUEUES = how_many(1_000, full=10_000)
# What they may cost beside a process that has little to do.
_BYTES_OF_MANY = 100_000_000

_CLONES = """
INSERT INTO wa_message ({columns}) SELECT {values} FROM wa_message m, generate_series(2, %s) n
WHERE m.session_id = %s AND m.seq = 1
"""
_RECONCILE = """
import re
import django
django.setup()
from django.core.management import call_command
try:
    call_command("reconcile_queues")
finally:
    print(re.search("VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
"""


def lengthen(session: Session, count: int) -> None:
    """Have a session with one message wait with `count`."""
    columns = [field.column for field in Message._meta.concrete_fields]
    own = {"id": "gen_random_uuid()", "seq": "n"}
    values = ", ".join(own.get(column, f"m.{column}") for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(_CLONES.format(columns=", ".join(columns), values=values), [count, session.pk])
        cursor.execute("ANALYZE wa_message")
    SessionCounter.objects.filter(session=session).update(next_seq=count + 1)


def reconcile_elsewhere() -> tuple[str, int]:
    """Reconcile in a process of its own; return what it said, and its peak memory in bytes."""
    name = connection.settings_dict["NAME"]
    done = subprocess.run(
        [sys.executable, "-c", _RECONCILE],
        env=os.environ
        | {
            "DATABASE_URL": urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl(),
            "REDIS_URL": settings.REDIS_URL,
        },
        capture_output=True, text=True, timeout=900, cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, int(done.stdout.splitlines()[-1]) * 1024


@pytest.mark.fault(27)
def test_a_long_queue_is_mended_without_being_held_in_memory_or_holding_redis_up(quiet_redis: redis.Redis) -> None:
    alpha = make_session("alpha", desired_state="paused")
    submit(alpha, "text")
    in_order()
    _, before = reconcile_elsewhere()
    lengthen(alpha, LONG)
    queue = keys.queue_key("alpha")

    def missing() -> None:
        """All of its jobs but one are missing."""
        said, most = reconcile_elsewhere()
        sys.stdout.write(f"{(most - before) / LONG:.0f} bytes a job\n")
        assert (most - before) / LONG < _BYTES_A_JOB
        words = ["missing_job", "wa:alpha", "alpha", "50000", "put", "right", "or", "more"]
        assert said.splitlines()[1].split() == words
        assert quiet_redis.llen(queue) == LONG

    def misplaced() -> None:
        """Two are in the wrong order, which is seen only by who has looked at all of it."""
        quiet_redis.rpush(queue, quiet_redis.lpop(queue))
        said, most = reconcile_elsewhere()
        sys.stdout.write(f"{(most - before) / LONG:.0f} bytes a job\n")
        assert said.splitlines()[1].split() == ["wrong_order", "wa:alpha", "alpha", "0", "put", "right"]
        assert (most - before) / LONG < _BYTES_A_JOB

    def lose_all_but_one() -> None:
        quiet_redis.ltrim(queue, 0, 0)
        kept = keys.job_key(quiet_redis.lindex(queue, 0).decode()).encode()
        for key in quiet_redis.scan_iter("rq:job:*", count=5000):
            if key != kept:
                quiet_redis.unlink(key)

    assert_redis_is_never_blocked(quiet_redis, missing, again=lose_all_but_one)
    assert_redis_is_never_blocked(quiet_redis, misplaced)
    assert job_ids(quiet_redis, "alpha") == line(alpha)
    assert found(run()) == []


@pytest.mark.fault(27)
def test_very_many_queues_are_filled_and_compared_in_bounded_memory_while_redis_serves_others(
    quiet_redis: redis.Redis,
) -> None:
    alpha = make_session("alpha", desired_state="paused")
    (message,) = submit(alpha, "text")
    in_order()
    _, before = reconcile_elsewhere()
    clone_session(alpha, QUEUES)
    clone(message, QUEUES, id="gen_random_uuid()", session_id="(SELECT id FROM wa_session WHERE name = 'alpha-' || n)")
    lost = list(map(keys.queue_key, Session.objects.exclude(name="alpha").values_list("name", flat=True)))

    def fill() -> None:
        said, most = reconcile_elsewhere()
        assert said.count("missing_job") == QUEUES - 1
        assert most - before < _BYTES_OF_MANY
        assert sum(map(quiet_redis.llen, lost)) == QUEUES - 1

    assert_redis_is_never_blocked(quiet_redis, fill, again=lambda: quiet_redis.delete(*lost))
    assert_redis_is_never_blocked(quiet_redis, lambda: found(run()) == [] or pytest.fail("something is wrong still"))
