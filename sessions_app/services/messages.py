"""Messages: submit them; cancel, retry and resolve them."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import OperationalError, connection, transaction
from django.db.models import Case, F, When
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app import crash_points
from sessions_app.exceptions import MessageNotFound, QueueUnavailable, SessionNotFound, WrongState
from sessions_app.models import (
    OPEN,
    Event,
    EventKind,
    Hold,
    Message,
    MessageType,
    Mirrored,
    Priority,
    Session,
    SessionCounter,
    SessionDispatch,
    Status,
    line,
    new_id,
)
from sessions_app.models.message import Ahead, built
from sessions_app.queues import mirror
from sessions_app.queues.connection import upkeep_client
from sessions_app.services import audit, endings, lost_commits
from sessions_app.services.audit import Actor
from sessions_app.services.database_clock import database_now
from sessions_app.services.estimates import message_time

log = logging.getLogger(__name__)

# To put so many takes no longer than to send one.
_FEW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A message as a client hands it in: checked already, not yet in a line."""

    to: str
    type: str = MessageType.TEXT
    text: str = ""
    media_url: str = ""
    filename: str = ""
    caption: str = ""
    template: dict[str, Any] | None = None
    priority: int = Priority.NORMAL
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    client_ref: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def submit(session: Session, drafts: Sequence[Draft], *, batch_id: uuid.UUID | None = None) -> list[Message]:
    """Keep `drafts` as messages of `session`, in this order, and put them into its queue once they are committed.

    However many they are, it takes one statement. Raises SessionNotFound when the session is deleted.
    Redis plays no part in the promise: when it cannot be reached, the rows wait for reconciliation.
    """
    now = timezone.now()
    # When a message comes due is PostgreSQL's to say, which promotes it and has it expire.
    due_by = database_now() if any(draft.scheduled_at for draft in drafts) else now
    made = [_from_draft(session, draft, now, due_by, batch_id) for draft in drafts]
    if not _append(session, made):
        raise SessionNotFound(f"there is no session named {session.name!r}: create it first")
    queued = [message for message in made if message.status == Status.QUEUED]
    if queued:
        transaction.on_commit(lambda: _put_new(session.name, queued))
    return made


def _append(session: Session, made: list[Message]) -> bool:
    server_pid = lost_commits.server()
    try:
        return line.append(session.pk, made)
    except OperationalError:
        # Outside of a transaction, that statement was the COMMIT too.
        kept = _kept(made) if lost_commits.may_be_kept(server_pid) else {}
        if not kept:
            raise
    log.warning("the answer to a COMMIT was lost: %d messages of %s are kept", len(kept), session.name)
    for message in made:
        message.seq, message._state.adding, message._state.db = kept[message.pk], False, connection.alias
    return True


def _kept(made: list[Message]) -> dict[uuid.UUID, int]:
    """The places of these messages, as far as they are committed."""
    return dict(Message.objects.filter(pk__in=[message.pk for message in made]).values_list("pk", "seq"))


def _put_new(session_name: str, messages: Sequence[Message]) -> None:
    crash_points.reach("submit: rows committed")
    put(session_name, messages)


def _from_draft(session: Session, draft: Draft, now: datetime, due_by: datetime, batch_id: uuid.UUID | None) -> Message:
    is_due = draft.scheduled_at is None or draft.scheduled_at <= due_by
    message = built({
        "id": new_id(),
        "recipient": draft.to,
        "type": draft.type,
        "text": draft.text,
        "media_url": draft.media_url,
        "filename": draft.filename,
        "caption": draft.caption,
        "template": draft.template,
        "priority": draft.priority,
        "status": Status.QUEUED if is_due else Status.SCHEDULED,
        "max_attempts": settings.WAQUEUE_MAX_ATTEMPTS,
        "scheduled_at": draft.scheduled_at,
        "expires_at": draft.expires_at,
        "client_ref": draft.client_ref,
        "metadata": draft.metadata,
        "batch_id": batch_id,
        "created_at": now,
        "queued_at": now if is_due else None,
    })  # fmt: skip
    message.session = session
    return message


def put(session_name: str, messages: Sequence[Message | Mirrored], *, have_new_places: bool = False) -> bool:
    """Put committed messages of one session into the mirror, each at its place; only log when Redis is not there.

    False when that did not work, and they wait for reconciliation.
    With `have_new_places` they are many that were placed just now, at the end of the line: Redis gets more time.
    """
    try:
        entries = entries_of(messages, have_new_places=have_new_places)
        # A message that may go before the one its session waits for has to be looked at now.
        urgent = any(entry.before or entry.message.priority == Priority.HIGH for entry in entries)
        mirror.put(session_name, entries, urgent=urgent, client=upkeep_client() if have_new_places else None)
        if len(messages) > _FEW:
            _take_out_settled(session_name, messages)
    except (QueueUnavailable, DatabaseError) as error:
        log.warning("%d messages of %s are kept and wait for reconciliation: %s", len(messages), session_name, error)
        return False
    return True


def _take_out_settled(session_name: str, messages: Sequence[Message | Mirrored]) -> None:
    """Take out the jobs of messages that were settled before their jobs were put.

    To put thousands takes a while, in which workers send the first. What is settled after this look is taken out by
    the settle itself.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM wa_message WHERE id = ANY(%s) AND status <> ALL(%s) ORDER BY priority, seq",
            [[message.pk for message in messages], list(OPEN)],
        )
        mirror.take_out(session_name, [row[0] for row in cursor.fetchall()])


def entries_of(messages: Sequence[Message | Mirrored], *, have_new_places: bool = False) -> list[mirror.Entry]:
    """What is to be put for messages of one session, in an order in which each finds the job that it stands before."""
    at_the_end: list[Message | Mirrored] = []
    within: list[Message | Mirrored] = []
    for message in messages:
        is_last = message.priority == Priority.NORMAL and have_new_places
        (at_the_end if is_last or _is_new(message) else within).append(message)
    # From the back: whom a message stands before is there already when its own turn comes, or is one of those that
    # follow at the end.
    within.sort(key=lambda message: (message.priority, message.seq), reverse=True)
    behind = _successors(within)
    return [mirror.Entry(message, behind[message.pk]) for message in within] + [
        mirror.Entry(message) for message in at_the_end
    ]


def _is_new(message: Message | Mirrored) -> bool:
    """Whether a message stands behind everything without a look: new, of normal priority, and queued at once."""
    return message.priority == Priority.NORMAL and message.queued_at == message.created_at and not message.attempts


_SUCCESSORS = """
SELECT w.id, s.id FROM unnest(%s::uuid[], %s::int[], %s::bigint[]) AS w(id, priority, seq)
LEFT JOIN LATERAL (
    SELECT m.id FROM wa_message m
    WHERE m.session_id = %s AND m.status IN ('queued', 'sending') AND (m.priority, m.seq) > (w.priority, w.seq)
    ORDER BY m.priority, m.seq LIMIT 1
) s ON true
"""


def _successors(messages: Sequence[Message | Mirrored]) -> dict[uuid.UUID, str]:
    """The id of the next message in the line for each of these; empty at the end of the line."""
    if not messages:
        return {}
    ids, priorities, places = zip(*((each.pk, each.priority, each.seq) for each in messages), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_SUCCESSORS, [list(ids), list(priorities), list(places), messages[0].session_id])
        return {pk: str(behind) if behind else "" for pk, behind in cursor.fetchall()}


def position(message: Message) -> int:
    """How many messages will be sent up to and with this one; past 200 an upper bound, so that it stays cheap."""
    return line.ahead(message).count + 1 if message.status in OPEN else 0


def outlook(message: Message, now: datetime, *, ahead: Ahead | None = None) -> tuple[int, datetime | None]:
    """Its position, and when it goes at the earliest at its session's present pace; None while that does not send.

    `ahead` is what stands before it, where that was looked up just now.
    """
    if message.status not in OPEN:
        return 0, None
    ahead = ahead or line.ahead(message)
    return ahead.count + 1, message_time(message, ahead, now)


def get(message_id: uuid.UUID) -> Message:
    """The message with its session. Raises MessageNotFound."""
    try:
        return Message.objects.select_related("session").get(pk=message_id)
    except Message.DoesNotExist:
        raise MessageNotFound(f"there is no message {message_id}") from None


def cancel(message_id: uuid.UUID, *, actor: Actor) -> Message:
    """Cancel a message that is not on its way yet. Raises WrongState, MessageNotFound.

    One that waits to be sent again by policy is uncertain then: an earlier attempt may have arrived.
    """
    allowed = (Status.QUEUED, Status.SCHEDULED)
    with transaction.atomic():
        if not Message.objects.select_for_update().filter(pk=message_id, status__in=allowed):
            raise _wrong_state(message_id, allowed, "cancelled")
        endings.end([message_id], Status.CANCELLED, by=actor.label)
        message = get(message_id)
        audit.record(actor, "cancel message", str(message.pk))
        transaction.on_commit(lambda: take_out(message))
    return message


def retry(message_id: uuid.UUID, *, actor: Actor) -> Message:
    """Queue a failed or expired message once more, at its old place. Raises WrongState, MessageNotFound."""
    with transaction.atomic():
        _lock_session(message_id)
        _transition(
            message_id,
            (Status.FAILED, Status.EXPIRED),
            "retried",
            status=Status.QUEUED,
            next_attempt_at=None,
            failed_at=None,
            expires_at=None,
            queued_at=timezone.now(),
            max_attempts=F("attempts") + settings.WAQUEUE_MAX_ATTEMPTS,
        )
        message = get(message_id)
        _record(message, EventKind.MESSAGE_QUEUED, actor, "retry message")
        _put_back(message)
    return message


def resolve(message_id: uuid.UUID, *, outcome: Literal["sent", "failed", "resend"], actor: Actor) -> Message:
    """Say what became of an uncertain message, or have it sent again. Raises WrongState, MessageNotFound.

    A session that was held for its uncertain message goes on once none is left.
    """
    now = timezone.now()
    changes: dict[str, dict[str, Any]] = {
        "sent": {"status": Status.SENT, "sent_at": now},
        "failed": {"status": Status.FAILED, "failed_at": now},
        "resend": {
            "status": Status.QUEUED,
            "queued_at": now,
            "next_attempt_at": None,
            "resends": F("resends") + 1,
            # Whoever has it sent after its end wants it sent all the same, as with a retry.
            "expires_at": Case(When(expires_at__gt=Now(), then=F("expires_at"))),
            "max_attempts": F("attempts") + settings.WAQUEUE_MAX_ATTEMPTS,
        },
    }
    with transaction.atomic():
        if outcome == "resend":
            _lock_session(message_id)
        _transition(message_id, (Status.UNCERTAIN,), "resolved", **changes[outcome])
        message = get(message_id)
        _record(message, EventKind.MESSAGE_RESOLVED, actor, f"resolve message as {outcome}", resolved_as=outcome)
        end_hold(message.session_id)
        if outcome == "resend":
            _put_back(message)
        else:
            transaction.on_commit(lambda: signal(message))
    return message


def end_hold(session_id: int) -> None:
    """Let a session go on that was held for its uncertain messages, if none is left. Within a transaction.

    The dispatch row first, so that two who resolve the last two messages see each other; after the message's own, as
    the settle takes them.
    """
    held = SessionDispatch.objects.filter(session_id=session_id)
    list(held.select_for_update())
    if not Message.objects.filter(session_id=session_id, status=Status.UNCERTAIN).exists():
        held.filter(hold=Hold.UNCERTAIN).update(hold=Hold.NONE, hold_reason="", held_at=None, uncertain_streak=0)


def _lock_session(message_id: uuid.UUID) -> None:
    """Keep the session of a message from being deleted until the commit: a deleted one would never send it.

    Raises WrongState when it is deleted already.
    """
    message = get(message_id)
    if SessionCounter.draw(message.session_id, 0) is None:
        raise WrongState(f"its session {message.session.name!r} was deleted and sends nothing", state=message.status)


def _transition(message_id: uuid.UUID, allowed: tuple[Status, ...], done: str, **changes: Any) -> None:
    """Change the row if it is in one of `allowed`; zero rows mean that somebody else was first."""
    if Message.objects.filter(pk=message_id, status__in=allowed).update(**changes):
        return
    raise _wrong_state(message_id, allowed, done)


def _wrong_state(message_id: uuid.UUID, allowed: tuple[Status, ...], done: str) -> WrongState:
    state = get(message_id).status
    return WrongState(f"only a message that is {' or '.join(allowed)} can be {done}; this one is {state}", state=state)


def _record(message: Message, kind: EventKind, actor: Actor, action: str, **data: Any) -> None:
    Event.objects.create(
        kind=kind, session_id=message.session_id, message_id=message.pk, data={"by": actor.label, **data}
    )
    audit.record(actor, action, str(message.pk))


def _put_back(message: Message) -> None:
    transaction.on_commit(lambda: put(message.session.name, [message]))


def nudge(message_id: uuid.UUID) -> None:
    """Have the session of a message looked at, and its job put into the mirror if it is open and has none."""
    message = get(message_id)
    if message.status in OPEN:
        put(message.session.name, [message])


def signal(message: Message) -> None:
    """Have the session of a message looked at; only log when Redis is not there."""
    signal_session(message.session.name)


def signal_session(name: str) -> None:
    """Have a session looked at; only log when Redis is not there."""
    try:
        mirror.signal([name])
    except QueueUnavailable as error:
        log.warning("%s could not be signalled and waits for reconciliation: %s", name, error)


def take_out(message: Message) -> None:
    """Take the job of a message that is not sent any more out of the mirror; only log when Redis is not there."""
    try:
        mirror.take_out(message.session.name, [message.pk])
        # What stood behind it may go now.
        mirror.signal([message.session.name])
    except QueueUnavailable as error:
        log.warning("the job of message %s stays until reconciliation: %s", message.pk, error)
