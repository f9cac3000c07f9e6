"""What is left when the monkey has gone: waits until all is quiet, and reads what both stores say."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tests.soak.facts import Attempt, Row
from tests.soak.life import Life
from tests.soak.monkey import Monkey
from tests.soak.stage import DRAIN_SECONDS, Stage

_UNSENT = """
SELECT s.name, count(*) FROM wa_message m JOIN wa_session s ON s.id = m.session_id
WHERE m.status IN ('queued', 'sending', 'scheduled') GROUP BY s.name ORDER BY 2 DESC
"""
_ROWS = """
SELECT m.id::text, s.name, m.text, m.status, m.seq, m.priority, m.resends, extract(epoch FROM m.queued_at)::float8,
       m.scheduled_at IS NOT NULL, extract(epoch FROM m.expires_at)::float8,
       (SELECT extract(epoch FROM max(e.created_at))::float8 FROM wa_event e
        WHERE e.message_id = m.id AND e.kind = 'message.expired'),
       (SELECT coalesce(array_agg(DISTINCT e.kind), '{}') FROM wa_event e WHERE e.message_id = m.id),
       (SELECT coalesce(json_agg(json_build_array(extract(epoch FROM a.fenced_at), a.outcome, a.token,
                                                   extract(epoch FROM a.finished_at))
                                 ORDER BY a.token), '[]')
        FROM wa_attempt a WHERE a.message_id = m.id)
FROM wa_message m JOIN wa_session s ON s.id = m.session_id
"""
# What would keep a message from ever being sent, or somebody from being told, and how many there are of it.
_REMAINS = {
    "flights of nobody": "SELECT count(*) FROM wa_in_flight",
    # Other holds end by themselves as soon as there is something to send.
    "sessions held without an uncertain message": """
        SELECT count(*) FROM wa_session_dispatch d WHERE hold IN ('uncertain', 'refused') AND NOT EXISTS (
            SELECT 1 FROM wa_message m WHERE m.session_id = d.session_id AND m.status = 'uncertain')""",
    "held sessions of which nobody was told": """
        SELECT count(*) FROM wa_session_dispatch d WHERE hold <> '' AND NOT EXISTS (
            SELECT 1 FROM wa_event e WHERE e.session_id = d.session_id AND e.kind = 'session.held')""",
    "sessions still paused": "SELECT count(*) FROM wa_session WHERE desired_state <> 'active' AND deleted_at IS NULL",
    "dead workers of which nobody was told": """
        SELECT count(*) FROM wa_worker
        WHERE stopped_at IS NULL AND missed_at IS NULL AND heartbeat_at < now() - interval '60 seconds'""",
    "orphans that are not archived": "SELECT count(*) FROM wa_orphan WHERE state = 'detected'",
}
_COUNTED = """
SELECT s.name, extract(epoch FROM d.hour_began_at)::float8, d.hour_count
FROM wa_session_dispatch d JOIN wa_session s ON s.id = d.session_id
WHERE s.hourly_cap > 0 AND d.hour_began_at IS NOT NULL
"""
_ARCHIVED = """
SELECT e.content ->> 'text' FROM wa_orphan_entry e JOIN wa_orphan o ON o.id = e.orphan_id
WHERE o.state = 'archived' AND o.session_name LIKE 'ghost-%'
"""
# A worker reconciles every 15 s, and what has been empty for a while is forgotten.
_RECONCILED_SECONDS = 60.0


def wait_until_quiet(stage: Stage, deadline_seconds: float, say: Callable[[str], None]) -> list[str]:
    """Wait until no message is on its way and the mirror is empty; return what is not so when the time is over."""
    start = time.monotonic()
    told = start
    while True:
        unsent, mirrored = _unsent(stage), _mirrored(stage)
        now = time.monotonic()
        if not unsent and not mirrored:
            say(f"quiet after {now - start:.0f} s")
            return []
        if now - start > deadline_seconds:
            left = [f"messages have not ended, by session: {unsent}"] if unsent else []
            return left + ([f"the mirror still has {len(mirrored)} keys: {mirrored[:5]}"] if mirrored else [])
        if now - told > 10:
            told = now
            names = ", ".join(list(unsent)[:5])
            say(f"{sum(unsent.values())} messages of {len(unsent)} sessions have not ended yet ({names})")
        time.sleep(0.5)


def read_rows(stage: Stage) -> list[Row]:
    """All messages."""
    with stage.database() as connection:
        rows = connection.execute(_ROWS).fetchall()
    return [
        Row(*row[:11], told=frozenset(row[11]), attempts=tuple(Attempt(*attempt) for attempt in row[12]))
        for row in rows
    ]


def read_counted(stage: Stage) -> dict[str, tuple[float, int]]:
    """What the sessions with a cap have counted towards it, and since when."""
    with stage.database() as connection:
        rows = connection.execute(_COUNTED).fetchall()
    return {name: (since, count) for name, since, count in rows}


def read_remains(stage: Stage, monkey: Monkey) -> list[str]:
    """What is wrong with the waqueue as a whole."""
    with stage.database() as connection:
        counts = {what: _count(connection, query) for what, query in _REMAINS.items()}
        archived = {row[0] for row in connection.execute(_ARCHIVED).fetchall()}
    found = [f"{count} {what}" for what, count in counts.items() if count]
    # What Redis forgot before anybody saw it is nowhere.
    kept = [text for text, at in monkey.planted.items() if at > monkey.forgot_at]
    found += [f"{text} is in no archived orphan" for text in kept if text not in archived]
    return found + _found_by_reconciliation(stage) + _told_by_worklist(stage)


def end_processes(stage: Stage) -> list[str]:
    """Ask every worker to leave; return who did not, not in good order, or had left before unasked."""
    for worker in stage.workers:
        worker.ask_to_leave()
    left = [f"{worker.name}: a worker does not leave" for worker in stage.lives[1:] if not _has_ended(worker)]
    for life in stage.lives:
        life.look()
        left += life.wrong
    for command in stage.commands:
        if command.wait(60) not in (0, 1, 2):
            left.append(f"reconcile_queues ended with {command.returncode}")
    return left


def _has_ended(worker: Life) -> bool:
    try:
        worker.process.wait(DRAIN_SECONDS + 30)
    except AssertionError:
        worker.kill()
        return False
    return True


def _unsent(stage: Stage) -> dict[str, int]:
    """How many messages each session has that have not ended, the most first."""
    with stage.database() as connection:
        return dict(connection.execute(_UNSENT).fetchall())


def _mirrored(stage: Stage) -> list[str]:
    with contextlib.closing(stage.redis_client()) as client:
        found = [key.decode() for pattern in ("rq:queue:wa:*", "rq:job:*") for key in client.scan_iter(pattern, 1000)]
    return found


def _count(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _found_by_reconciliation(stage: Stage) -> list[str]:
    """What the two stores still differ in after a while in which nobody did anything."""
    end = time.monotonic() + _RECONCILED_SECONDS
    while (done := stage.command("reconcile_queues", "--dry-run")).returncode:
        if time.monotonic() > end:
            return [f"reconcile_queues ends with {done.returncode} and says: {done.stdout}{done.stderr}"]
    return []


def _told_by_worklist(stage: Stage) -> list[str]:
    """What the worklist says of sessions that should have sent. The rest of it is what the monkey has left."""
    import django

    os.environ |= stage.environ
    django.setup()
    from sessions_app.services import worklist

    told = {"overdue", "no_worker", "reconciliation_failed", "task_failed"}
    return [f"the worklist says: {item}" for item in worklist.items() if item.kind in told]
