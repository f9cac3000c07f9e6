"""Rows and threads for tests. Rows are made by the services that make them in life."""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import redis
from django.db import connection
from django.utils import timezone

from sessions_app.models import AuditEntry, Event, InFlight, Message, Session, SessionDispatch, Status, new_id
from sessions_app.queues import keys
from sessions_app.services import messages, sessions
from sessions_app.services.audit import Actor
from sessions_app.services.messages import Draft
from tests.processes import wait_until

ACTOR = Actor.command("test")
PHONE = "+51930246633"


def make_session(name: str = "alpha", **options: Any) -> Session:
    """Return a loopback session, made now."""
    session, made = sessions.create(name=name, actor=ACTOR, **options)
    assert made
    return session


def submit(session: Session, *texts: str, to: str = PHONE, **fields: Any) -> list[Message]:
    """Submit one message for each text, in this order."""
    return messages.submit(session, [Draft(to=to, text=text, **fields) for text in texts])


def in_an_hour() -> Any:
    """A time at which nothing that is scheduled for it is due during a test."""
    return timezone.now() + timedelta(hours=1)


def become(message: Message, status: Status, **changes: Any) -> Message:
    """Put the message's row into another state, as the worker would have."""
    Message.objects.filter(pk=message.pk).update(status=status, **changes)
    message.refresh_from_db()
    return message


def now(message: Message) -> Message:
    """The message as its row says now."""
    message.refresh_from_db()
    return message


def hold(session: Session, why: str, **changes: Any) -> None:
    """Hold a session, as the worker would have."""
    SessionDispatch.objects.filter(session=session).update(hold=why, held_at=timezone.now(), **changes)


def fly(message: Message) -> InFlight:
    """Have the message in flight, as the fence would have."""
    now = timezone.now()
    become(message, Status.SENDING)
    return InFlight.objects.create(
        session_id=message.session_id, slot=0, token=1, message=message, worker_id=new_id(), fenced_at=now,
        deadline_at=now + timedelta(minutes=1),
    )  # fmt: skip


def line(session: Session) -> list[str]:
    """The ids of the session's open messages, in the order in which they are sent."""
    return [str(pk) for pk in Message.objects.open().filter(session=session).in_order().values_list("pk", flat=True)]


def job_ids(client: redis.Redis, name: str) -> list[str]:
    """What stands in the session's RQ queue."""
    return [entry.decode() for entry in client.lrange(keys.queue_key(name), 0, -1)]


def is_due(client: redis.Redis, name: str) -> bool:
    """Whether a worker that claims now gets this session."""
    score = client.zscore(keys.DUE, name)
    seconds, microseconds = client.time()
    return score is not None and score <= seconds * 1000 + microseconds // 1000


def traces(message_or_session: Message | Session) -> tuple[list[str], list[str]]:
    """The kinds of events and the actions in the audit that tell of it, oldest first."""
    if isinstance(message_or_session, Message):
        events, target = Event.objects.filter(message=message_or_session), str(message_or_session.pk)
    else:
        events, target = Event.objects.filter(session=message_or_session, message=None), message_or_session.name
    audit = AuditEntry.objects.filter(target=target).order_by("id")
    return list(events.order_by("id").values_list("kind", flat=True)), list(audit.values_list("action", flat=True))


def observer() -> "psycopg.Connection[Any]":
    """A connection of its own to the database under test, that sees only what is committed."""
    parameters = connection.get_connection_params()
    for name in ("cursor_factory", "context", "pool", "prepare_threshold"):
        parameters.pop(name, None)
    return psycopg.connect(**parameters, autocommit=True)


class Threads:
    """Calls that run at once, each with a database connection of its own."""

    def __init__(self, acts: Sequence[Callable[[], Any]]) -> None:
        self.results: list[Any] = [None] * len(acts)
        self._barrier = threading.Barrier(len(acts))
        self._threads = [threading.Thread(target=self._run, args=(at, act)) for at, act in enumerate(acts)]
        # The pool has room for eight: the test's own connection makes room for theirs.
        if not connection.in_atomic_block:
            connection.close()
        for thread in self._threads:
            thread.start()

    def _run(self, at: int, act: Callable[[], Any]) -> None:
        try:
            self._barrier.wait(10)
            self.results[at] = act()
        except Exception as error:
            self.results[at] = error
        finally:
            connection.close()

    def join(self) -> list[Any]:
        """Wait for all; return what each returned or raised."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread hangs"
        return self.results

    @property
    def is_over(self) -> bool:
        """Whether all of them have ended."""
        return not any(thread.is_alive() for thread in self._threads)


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Run `acts` at once; return what each returned or raised, in their order."""
    return Threads(acts).join()


def wait_until_blocked(count: int = 1) -> None:
    """Wait until so many connections of this database wait for a lock that another one holds."""
    with observer() as looking:
        wait_until(
            lambda: looking.execute(
                "SELECT count(*) >= %s FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock'",
                [count],
            ).fetchone()[0],
            10,
            f"{count} connections wait for a lock",
        )
