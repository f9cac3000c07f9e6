"""Redis as others leave it, both stores as pictures to be compared, and reconciliation without its pause."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from rq import Queue
from rq.serializers import JSONSerializer

from sessions_app.models import (
    NEWEST_TOKEN,
    Attempt,
    Deployment,
    InFlight,
    Message,
    Orphan,
    OrphanEntry,
    Reconciliation,
    Session,
    SessionCounter,
    SessionDispatch,
    Trigger,
)
from sessions_app.queues import inspect
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation import compare
from sessions_app.reconciliation.rebuild import rebuild
from sessions_app.reconciliation.run import AlreadyRunning, reconcile
from tests.factories import PHONE
from tests.processes import wait_until

_TABLES = (Attempt, Deployment, InFlight, Message, Orphan, OrphanEntry, Session, SessionCounter, SessionDispatch)


@pytest.fixture
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have reconciliation take its second look at once."""
    monkeypatch.setattr(compare, "_SECOND_LOOK_SECONDS", 0)


@pytest.fixture
def ready(without_pause: None) -> None:
    """Have a Redis that is known, and reconciliation take its second look at once."""
    in_order()


def stock_queue(client: redis.Redis, name: str, texts: Iterable[object], *, hours_ago: float = 1) -> list[str]:
    """Fill the RQ queue `wa:<name>` as an unmodified rq does; return the ids of its jobs."""
    queue = Queue(f"wa:{name}", connection=client, serializer=JSONSerializer)
    jobs = [queue.enqueue("other.app.send", to=PHONE, text=str(text)) for text in texts]
    for job in jobs:
        at = datetime.now(UTC) - timedelta(hours=hours_ago)
        client.hset(f"rq:job:{job.id}", "created_at", at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    return [job.id for job in jobs]


def legacy_entry(text: object, *, hours_ago: float | None = 1, **fields: object) -> bytes:
    """An entry of the old service."""
    entry: dict[str, object] = {"phone": PHONE.removeprefix("+"), "message": str(text), "type": "notice", "attempts": 3}
    if hours_ago is not None:
        entry["createdAt"] = int((datetime.now(UTC) - timedelta(hours=hours_ago)).timestamp() * 1000)
    return json.dumps(entry | fields).encode()


def legacy_list(client: redis.Redis, name: str, texts: Iterable[object], **options: Any) -> None:
    """Fill the list of the old service for a session."""
    client.rpush(f"queue:{name}", *(legacy_entry(text, **options) for text in texts))


def in_order() -> None:
    """Let this Redis be known, as after its first rebuild."""
    rebuild(inspect.establish_generation(client=upkeep_client()))


def run(**options: Any) -> Reconciliation:
    """Reconcile as by hand."""
    done = reconcile(options.pop("trigger", Trigger.COMMAND), **options)
    assert done is not None
    return done


def run_when_alone(**options: Any) -> Reconciliation:
    """As `run`, after that of another process, of which PostgreSQL may not know yet that it was killed."""

    def alone() -> Reconciliation | None:
        try:
            return run(**options)
        except AlreadyRunning:
            return None

    return wait_until(alone, 30, "no other process reconciles")


def found(done: Reconciliation) -> list[tuple[str, str, int, str]]:
    """What a run found and did: kind, session, number of messages, action."""
    return sorted(done.findings.values_list("kind", "session", "messages", "action"))


def picture_of_redis(client: redis.Redis) -> dict[bytes, Any]:
    """Every key with its whole content."""
    return {key: client.dump(key) for key in client.scan_iter()}


def picture_of_postgres() -> dict[str, Any]:
    """Every row that a repair might touch, and the sequence of attempts."""
    rows: dict[str, Any] = {table.__name__: list(table.objects.order_by("pk").values()) for table in _TABLES}
    return rows | {"attempts up to": newest_token()}


def newest_token() -> int:
    """The highest attempt token that the database knows of."""
    with connection.cursor() as cursor:
        cursor.execute(NEWEST_TOKEN)
        return int(cursor.fetchone()[0])


def texts_of(orphan: Orphan) -> list[str]:
    """What an archived orphan holds, in its order."""
    return [entry.content.get("text", "") for entry in OrphanEntry.objects.filter(orphan=orphan).order_by("index")]


def texts_in_line(session: Session) -> list[str]:
    """What a session is going to send, in order."""
    return list(Message.objects.open().filter(session=session).in_order().values_list("text", flat=True))
