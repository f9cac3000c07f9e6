"""Sessions and messages in bulk, as the services would have made them one by one: rows, counters, mirror."""

from collections.abc import Iterator
from typing import Any

from django.utils import timezone

from benchmarks import transports
from benchmarks.stores import Stores
from sessions_app.models import DesiredState, Message, ObservedState, Session, SessionCounter, SessionDispatch
from sessions_app.queues import keys
from sessions_app.queues.jobs import job_fields
from sessions_app.transports import registry

TEXT = "Dear parents, tomorrow school begins at eight. Please bring the signed form."
_CHUNK = 2000


def seed(
    stores: Stores, sessions: int, each: int, transport: str = "noop", config: dict[str, Any] | None = None,
    pace_ms: int = 0, *, mirrored: bool = True,
) -> None:  # fmt: skip
    """Make paused sessions s0, s1, ... with `each` queued messages, `pace_ms` apart. Nobody is signalled.

    Where it is not `mirrored`, Redis is left as it is.
    """
    transports.register()
    kind = registry.get(transport)
    made = Session.objects.bulk_create(
        [
            Session(
                name=f"s{number}", transport=transport, config=kind.stored_config(config or {}),
                desired_state=DesiredState.PAUSED, observed_state=ObservedState.WORKING,
                min_interval_ms=pace_ms, max_interval_ms=pace_ms,
            )
            for number in range(sessions)
        ],
        batch_size=_CHUNK,
    )  # fmt: skip
    SessionCounter.objects.bulk_create([SessionCounter(session=s, next_seq=each + 1) for s in made], batch_size=_CHUNK)
    SessionDispatch.objects.bulk_create([SessionDispatch(session=session) for session in made], batch_size=_CHUNK)
    if each:
        _messages(stores, each)
        if mirrored:
            _mirror(stores)
    stores.database.execute("VACUUM (ANALYZE)")


def _messages(stores: Stores, each: int) -> None:
    """Clone one message, in the order in which clients of many sessions would have submitted them."""
    now = timezone.now()
    model = Message.objects.create(
        session=Session.objects.earliest("id"), recipient="+51930246633", seq=0, created_at=now, queued_at=now,
        text=TEXT,
    )  # fmt: skip
    columns = [field.column for field in Message._meta.concrete_fields]
    own = {
        "id": "uuidv7()", "session_id": "s.id", "seq": "n",
        "recipient": "'+51' || (900000000 + floor(random() * 99999999)::int)",
    }  # fmt: skip
    stores.database.execute(
        f"INSERT INTO wa_message ({', '.join(columns)}) "
        f"SELECT {', '.join(own.get(column, f'm.{column}') for column in columns)} "
        "FROM wa_message m, generate_series(1, %s) n, wa_session s WHERE m.id = %s ORDER BY n, s.id",
        [each, model.pk],
    )
    Message.objects.filter(pk=model.pk).delete()


def _mirror(stores: Stores) -> None:
    """Write the RQ queues of all messages."""
    pipe = stores.redis.pipeline(transaction=False)
    for number, (name, message) in enumerate(queued("seq", "session_id"), 1):
        pipe.execute_command("HSET", keys.job_key(message.pk), *job_fields(name, message))
        pipe.rpush(keys.queue_key(name), str(message.pk))
        if message.seq == 1:
            pipe.sadd(keys.RQ_QUEUES, keys.queue_key(name))
        if number % _CHUNK == 0:
            pipe.execute()
    pipe.execute()


def queued(*order: str) -> Iterator[tuple[str, Any]]:
    """All messages in this order, each with the name of its session."""
    for message in Message.objects.select_related("session").order_by(*order).iterator(_CHUNK):
        yield message.session.name, message
