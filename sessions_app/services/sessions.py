"""Sessions: create, change, delete; pause, resume, start, stop.

Each act writes its event and its audit entry in its own transaction, and signals workers once that is committed.
"""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from django.db import IntegrityError, transaction
from django.utils import timezone

from sessions_app.exceptions import (
    InvalidInput,
    QueueUnavailable,
    SessionExists,
    SessionHasUnsentMessages,
    SessionNotFound,
)
from sessions_app.models import (
    UNSENT,
    DesiredState,
    Event,
    EventKind,
    Hold,
    InFlight,
    Message,
    ObservedState,
    OnUncertain,
    Session,
    SessionCounter,
    SessionDispatch,
    Status,
)
from sessions_app.queues import mirror
from sessions_app.services import audit, endings, quiet_hours
from sessions_app.services.audit import Actor
from sessions_app.services.database_clock import database_now
from sessions_app.services.locks import lock_name
from sessions_app.services.orphans.adopting import Adopted, adopt
from sessions_app.services.orphans.from_session import orphan_unsent
from sessions_app.services.pacing import Pacing
from sessions_app.services.repacing import repace
from sessions_app.transports import registry

log = logging.getLogger(__name__)

Act = Literal["start", "stop", "pause", "resume", "restart"]
_DESIRED: dict[str, DesiredState] = {
    "start": DesiredState.ACTIVE,
    "resume": DesiredState.ACTIVE,
    "restart": DesiredState.ACTIVE,
    "pause": DesiredState.PAUSED,
    "stop": DesiredState.STOPPED,
}


def get(name: str) -> Session:
    """The living session of that name, with its dispatch row. Raises SessionNotFound."""
    try:
        return Session.objects.alive().select_related("dispatch").get(name=name)
    except Session.DoesNotExist:
        raise SessionNotFound(f"there is no session named {name!r}: create it first") from None


def create(
    *,
    name: str,
    actor: Actor,
    transport: str = "loopback",
    config: dict[str, Any] | None = None,
    pacing: Pacing | None = None,
    on_uncertain: str = OnUncertain.HOLD,
    max_in_flight: int = 1,
    desired_state: str = DesiredState.ACTIVE,
    leave: uuid.UUID | None = None,
    adopts: bool = True,
) -> tuple[Session, Adopted | None]:
    """Return the session of that name and, if it was made now, what it found under its name; None if it was there.

    What Redis and earlier orphans hold under its name is archived; what is young of it goes back into the line, but for
    the orphan `leave`, of which the caller restores what a person chose. Who calls this in a transaction says that it
    `adopts` nothing, and calls `adopt` after the commit.

    Raises InvalidInput naming the fields that do not fit, SessionExists when there is one that differs.
    """
    wanted = Session(
        name=name, transport=transport, on_uncertain=on_uncertain, max_in_flight=max_in_flight,
        desired_state=desired_state,
    )  # fmt: skip
    _check(wanted)
    adapter = registry.get(transport)
    wanted.config = adapter.stored_config(config or {})
    (pacing or Pacing(**adapter.default_pacing)).apply(wanted)
    wanted.observed_state = adapter.first_state if desired_state != DesiredState.STOPPED else ObservedState.STOPPED
    try:
        with transaction.atomic():
            lock_name(name)
            wanted.save(force_insert=True)
            SessionCounter.objects.create(session=wanted)
            quiet_from, quiet_until = quiet_hours.next_window(wanted, database_now())
            SessionDispatch.objects.create(session=wanted, quiet_from=quiet_from, quiet_until=quiet_until)
            Event.objects.create(kind=EventKind.SESSION_CREATED, session=wanted, data={"by": actor.label})
            audit.record(actor, "create session", name)
    except IntegrityError:
        existing = get(name)
        there, asked = _compared(existing), _compared(wanted)
        if differing := [field for field in _COMPARED if there[field] != asked[field]]:
            raise SessionExists(
                f"a session named {name!r} exists and differs in {', '.join(differing)}: change it with PATCH",
                differing=differing,
            ) from None
        return existing, None
    session = get(name)
    return session, adopt(session, actor=actor, leave=leave) if adopts else Adopted()


_COMPARED = (
    "transport", "config", "on_uncertain", "max_in_flight", "desired_state", *Pacing.__slots__,
)  # fmt: skip


def _compared(session: Session) -> dict[str, Any]:
    """What tells two sessions apart, with secrets in the open: the same one is encrypted differently each time."""
    values = {field: getattr(session, field) for field in _COMPARED}
    if session.transport in registry.names():
        values["config"] = registry.get(session.transport).readable_config(session.config)
    return values


def update(
    session: Session,
    *,
    actor: Actor,
    config: dict[str, Any] | None = None,
    pacing: Pacing | None = None,
    on_uncertain: str | None = None,
    max_in_flight: int | None = None,
    desired_state: str | None = None,
) -> Session:
    """Change what is given; it holds from the next message on. `config` is merged.

    Raises InvalidInput, SessionNotFound when it was deleted meanwhile.
    """
    with transaction.atomic():
        locked = Session.objects.alive().select_for_update(no_key=True).filter(pk=session.pk).first()
        if locked is None:
            raise SessionNotFound(f"the session {session.name!r} was deleted")
        before, old = _compared(locked), Pacing.of(locked)
        if on_uncertain is not None:
            locked.on_uncertain = on_uncertain
        if max_in_flight is not None:
            locked.max_in_flight = max_in_flight
        if desired_state is not None:
            locked.desired_state = desired_state
        _check(locked)
        if config is not None:
            locked.config = registry.get(locked.transport).stored_config(config, locked.config)
        if pacing is not None:
            pacing.apply(locked)
        after = _compared(locked)
        changed = sorted(field for field in _COMPARED if after[field] != before[field])
        if changed:
            locked.save()
            if set(changed) & set(Pacing.__slots__):
                repace(locked, old)
            Event.objects.create(
                kind=EventKind.SESSION_CHANGED, session=locked, data={"by": actor.label, "fields": changed}
            )
            audit.record(actor, "change session", locked.name, fields=changed)
            _signal_on_commit([locked.name])
    return get(locked.name)


def act(session: Session, what: Act, *, actor: Actor) -> Session:
    """Pause, resume, stop, start or restart one session. Raises SessionNotFound when it was deleted meanwhile."""
    if not act_on([session.pk], what, actor=actor):
        raise SessionNotFound(f"the session {session.name!r} was deleted")
    return get(session.name)


def act_on(session_ids: Iterable[int], what: Act, *, actor: Actor) -> int:
    """Pause, resume, stop, start or restart these sessions; return how many there were.

    Resuming and starting also end a hold: whoever presses it has looked.
    """
    with transaction.atomic():
        # Without the key: submitting, which only refers to the row, does not wait.
        alive = Session.objects.alive().select_for_update(no_key=True)
        chosen = list(alive.filter(pk__in=list(session_ids)).order_by("pk"))
        for session in chosen:
            session.desired_state = _DESIRED[what]
            if what == "stop":
                session.observed_state, session.observed_reason = ObservedState.STOPPED, ""
            elif what in ("start", "restart"):
                session.observed_state = registry.get(session.transport).first_state
                session.observed_reason = ""
        Session.objects.bulk_update(chosen, ["desired_state", "observed_state", "observed_reason"])
        if _DESIRED[what] == DesiredState.ACTIVE:
            # In the order in which a settle takes them.
            list(SessionDispatch.objects.select_for_update().filter(session__in=chosen).order_by("session_id"))
            SessionDispatch.objects.filter(session__in=chosen).update(
                hold=Hold.NONE, hold_reason="", held_at=None, uncertain_streak=0
            )
        Event.objects.bulk_create(
            Event(
                kind=EventKind.SESSION_STATE_CHANGED,
                session=session,
                data={"by": actor.label, "act": what, "desired_state": session.desired_state},
            )
            for session in chosen
        )
        for session in chosen:
            audit.record(actor, f"{what} session", session.name)
        _signal_on_commit([session.name for session in chosen])
    return len(chosen)


def act_on_all(what: Literal["pause", "resume"], *, actor: Actor) -> int:
    """Pause every active session, or resume every paused one; return how many that were."""
    state = DesiredState.ACTIVE if what == "pause" else DesiredState.PAUSED
    ids = Session.objects.alive().filter(desired_state=state).values_list("pk", flat=True)
    return act_on(list(ids), what, actor=actor)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of the messages that a deleted session had not sent.

    `uncertain` are those that were to be cancelled and waited to be sent again by policy: they may have arrived.
    """

    cancelled: int = 0
    uncertain: int = 0
    orphaned: int = 0


def delete(session: Session, *, actor: Actor, unsent: Literal["refuse", "cancel", "orphan"] = "refuse") -> Deleted:
    """Delete a session; return what became of its unsent messages. Its history is kept.

    Raises SessionHasUnsentMessages when there are some and `unsent` is "refuse", or when one is being sent just now.
    """
    with transaction.atomic():
        # The lock that submitting takes: after it, nothing can be added to this session.
        if SessionCounter.draw(session.pk, 0) is None:
            raise SessionNotFound(f"the session {session.name!r} was deleted")
        unsent_messages = Message.objects.filter(session=session, status__in=UNSENT)
        count = unsent_messages.count()
        if count and unsent == "refuse":
            raise SessionHasUnsentMessages(
                f"{count} messages of {session.name!r} are not sent: say ?unsent=cancel or ?unsent=orphan", unsent=count
            )
        waiting = list(unsent_messages.exclude(status=Status.SENDING).select_for_update().values_list("pk", flat=True))
        # Asked once their rows are locked: a fence that was under way has committed, and a later one gets none of them.
        if InFlight.objects.filter(session=session).exists() or unsent_messages.filter(status=Status.SENDING).exists():
            raise SessionHasUnsentMessages(
                f"a message of {session.name!r} is being sent just now: pause the session and ask again in a moment",
                unsent=count,
            )
        if unsent == "orphan" and waiting:
            orphan_unsent(session, by=actor.label)
            done = Deleted(orphaned=len(waiting))
        else:
            doubted = len(endings.end(waiting, Status.CANCELLED, by=actor.label))
            done = Deleted(cancelled=len(waiting) - doubted, uncertain=doubted)
        SessionCounter.objects.filter(session=session).delete()
        Session.objects.filter(pk=session.pk).update(
            deleted_at=timezone.now(), desired_state=DesiredState.STOPPED, observed_state=ObservedState.STOPPED
        )
        told = {"unsent": len(waiting), **{what: count for what, count in asdict(done).items() if count}}
        Event.objects.create(
            kind=EventKind.SESSION_DELETED, session=session, data={"by": actor.label, "as": unsent, **told}
        )
        audit.record(actor, "delete session", session.name, unsent_as=unsent, **told)
        transaction.on_commit(lambda: _take_out(session.name, waiting))
        # A due time that it left would be kept by what is put for another session of its name.
        _signal_on_commit([session.name])
    return done


def _check(session: Session) -> None:
    """Raise InvalidInput for whatever the model itself does not allow, by the names that the API uses."""
    from django.core.exceptions import ValidationError

    errors: list[dict[str, str]] = []
    try:
        session.clean_fields(exclude=["config", *Pacing.__slots__])
    except ValidationError as error:
        for field, messages in error.message_dict.items():
            choices = getattr(Session._meta.get_field(field), "choices", None)
            hint = f" One of: {', '.join(str(value) for value, _ in choices)}." if choices else ""
            errors.append({"field": field, "message": " ".join(messages) + hint})
    if session.transport not in registry.names():
        errors.append({"field": "transport", "message": f"one of: {', '.join(registry.names())}"})
    else:
        most = registry.get(session.transport).max_in_flight
        if not 1 <= session.max_in_flight <= most:
            message = f"1 to {most}" if most > 1 else f"1: {session.transport} sends one message at a time"
            errors.append({"field": "max_in_flight", "message": message})
    if errors:
        raise InvalidInput(errors)


def _signal_on_commit(names: list[str]) -> None:
    def signal() -> None:
        try:
            mirror.signal(names)
        except QueueUnavailable as error:
            log.warning("%d sessions could not be signalled and wait for reconciliation: %s", len(names), error)

    transaction.on_commit(signal)


def _take_out(name: str, message_ids: list[Any]) -> None:
    try:
        mirror.take_out(name, message_ids)
    except QueueUnavailable as error:
        log.warning("jobs of the deleted session %s stay in Redis until reconciliation: %s", name, error)
