"""Receipts: what engines say later, kept once and applied in whatever order it comes.

What a message becomes depends on all of its receipts together and not on the one that came last. A receipt whose
message is not known yet, or is still being sent, waits: a worker looks again until the send's own answer is written.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app.models import (
    ACCEPTED,
    Event,
    EventKind,
    Message,
    Receipt,
    ReceiptSource,
    ReceiptStage,
    Session,
    Status,
)
from sessions_app.services import messages
from sessions_app.transports import registry
from sessions_app.transports.base import Hook, ReceiptIn, Transport

log = logging.getLogger(__name__)

# A receipt that has to wait is looked at after this time, then each time after as long as it has waited, and no more
# once it has waited longer than any send takes.
_FIRST_LOOK = timedelta(seconds=1)
_LAST_LOOK = timedelta(minutes=30)
_BATCH = 200
_PROOFS = (ReceiptStage.READ, ReceiptStage.DELIVERED, ReceiptStage.SENT)
# What a receipt may end: the engine has it, whatever was thought of it before.
_UNSURE = (Status.QUEUED, Status.UNCERTAIN)
_TOLD = {Status.DELIVERED: EventKind.MESSAGE_DELIVERED, Status.READ: EventKind.MESSAGE_READ}
_OF_ENGINE = """
SELECT id FROM wa_message
WHERE provider_id = %s AND session_id = %s AND provider_id <> '' AND provider_id NOT LIKE 'loopback-%%' LIMIT 1
"""


def receive(session: Session, headers: Mapping[str, str], body: bytes) -> int:
    """Take in what an engine sent to the hook of a session; return how many receipts were new.

    Raises HookUnsigned, HookRefused, HookNotFound, SecretUnreadable.
    """
    transport = registry.get(session.transport)
    hook: Hook = transport.receive(session.name, transport.open_config(session.config), headers, body)
    new = sum(record(session, receipt) for receipt in hook.receipts)
    if hook.has_news:
        # Not believed, since it may be an old one: a session that is held is looked at, and its engine asked.
        messages.signal_session(session.name)
    return new


def record(session: Session, heard: ReceiptIn, *, found: uuid.UUID | None = None) -> bool:
    """Keep one receipt and apply it; False when it is known already. `found` is the message that a look-up was for."""
    with transaction.atomic():
        receipt, is_new = Receipt.objects.get_or_create(
            session=session,
            event_id=heard.event_id,
            defaults={
                "provider_id": heard.provider_id,
                "stage": heard.stage,
                "occurred_at": heard.occurred_at,
                "source": ReceiptSource.LOOK_UP if found else ReceiptSource.HOOK,
                "message_id": found or _message_of(session, heard.provider_id),
            },
        )
        if is_new and not _apply(receipt):
            Receipt.objects.filter(pk=receipt.pk).update(next_look_at=Now() + _FIRST_LOOK)
    return is_new


def look_again() -> int:
    """Apply receipts that have waited for their message or for its send; return how many were looked at."""
    with transaction.atomic():
        waiting = list(
            Receipt.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(next_look_at__lte=Now())
            .select_related("session")
            .order_by("next_look_at")[:_BATCH]
        )
        for receipt in waiting:
            if receipt.message_id is None:
                receipt.message_id = _message_of(receipt.session, receipt.provider_id)
                Receipt.objects.filter(pk=receipt.pk, message=None).update(message=receipt.message_id)
        # Messages in one order, so that two who look at once never wait for each other in a ring.
        for receipt in sorted(waiting, key=lambda each: str(each.message_id)):
            waits = not _apply(receipt) and timezone.now() - receipt.received_at < _LAST_LOOK
            again = Now() + (Now() - F("received_at")) if waits else None
            Receipt.objects.filter(pk=receipt.pk).update(next_look_at=again)
    return len(waiting)


def _message_of(session: Session, provider_id: str) -> uuid.UUID | None:
    """The message of this session that the engine means: by the id that we gave it, or by the one that it gave."""
    transport: type[Transport] = registry.get(session.transport)
    if around := transport.ids_around(provider_id, timezone.now()):
        near = Message.objects.filter(session=session, pk__range=around).order_by("pk").values_list("pk", flat=True)
        for pk in near:
            if transport.client_id(pk) == provider_id:
                return pk
    with connection.cursor() as cursor:
        cursor.execute(_OF_ENGINE, [provider_id, session.pk])
        row = cursor.fetchone()
    return row[0] if row else None


def _apply(receipt: Receipt) -> bool:
    """Bring the message to where its receipts say that it is; False when that cannot be said yet."""
    if receipt.message_id is None:
        return False
    message = Message.objects.select_for_update(of=("self",)).select_related("session").get(pk=receipt.message_id)
    if receipt.token is None:
        receipt.token = message.token or 0
        Receipt.objects.filter(pk=receipt.pk).update(token=receipt.token)
    if message.status == Status.SENDING:
        # Whatever comes of the send, it is written first.
        return False
    heard = list(Receipt.objects.filter(message=message).order_by("pk"))
    wanted = _wanted(message, heard)
    if wanted is None:
        return True
    now = timezone.now()
    changes: dict[str, Any] = {}
    for stage, name in ((ReceiptStage.DELIVERED, "delivered_at"), (ReceiptStage.READ, "read_at")):
        told = next((each for each in heard if each.stage == stage), None)
        if told is not None and getattr(message, name) is None:
            changes[name] = _moment(told, message, now)
    if wanted == Status.UNCERTAIN:
        if message.status == Status.SENT:
            _doubt(message, receipt)
        return True
    before = Status(message.status)
    is_unsure = before in _UNSURE
    if not (is_unsure or before in ACCEPTED):
        # A person, or a refusal of the engine, has decided: the receipt is evidence.
        return True
    if is_unsure or ACCEPTED.index(wanted) > ACCEPTED.index(before):
        changes["status"] = wanted
    if is_unsure:
        changes |= {"sent_at": message.sent_at or now, "next_attempt_at": None}
        changes["provider_id"] = message.provider_id or receipt.provider_id
    if changes:
        Message.objects.filter(pk=message.pk).update(**changes)
    if is_unsure:
        _resolved(message, receipt, wanted)
    elif "status" in changes:
        _tell(message, _TOLD[wanted], receipt)
    return True


def _wanted(message: Message, heard: Sequence[Receipt]) -> Status | None:
    """What the receipts of a message say together; None when they say nothing of its newest attempt."""
    stages = {receipt.stage for receipt in heard}
    for stage in _PROOFS:
        if stage in stages:
            return Status(stage.value)
    # A failure, or that the engine took it, is about one attempt: the same id is used in each.
    recent = {receipt.stage for receipt in heard if receipt.token == (message.token or 0)}
    if ReceiptStage.FAILED in recent:
        return Status.UNCERTAIN
    return Status.SENT if ReceiptStage.ACCEPTED in recent else None


def _moment(receipt: Receipt, message: Message, now: datetime) -> datetime:
    """When it happened by the engine's clock, as far as that can be: not before the message, nor in the future."""
    return min(now, max(message.created_at, receipt.occurred_at or receipt.received_at))


def _resolved(message: Message, receipt: Receipt, status: Status) -> None:
    """Nobody knew of the message, or it waited to be sent again: now it is known, and is not sent again."""
    _tell(message, EventKind.MESSAGE_RESOLVED, receipt, resolved_as=status.value)
    log.info("message %s of %s is %s, by a receipt (%s)", message.pk, message.session.name, status, receipt.source)
    messages.end_hold(message.session_id)
    if message.status == Status.QUEUED:
        transaction.on_commit(lambda: messages.take_out(message))
    else:
        transaction.on_commit(lambda: messages.signal(message))


def _doubt(message: Message, receipt: Receipt) -> None:
    """The engine took the message and then says that it failed: whether it arrived is a person's to find out."""
    Message.objects.filter(pk=message.pk).update(
        status=Status.UNCERTAIN,
        error_class="uncertain",
        error_code="receipt",
        error_detail="the engine accepted it, and said later that it failed",
        # The engine has said what it knows.
        look_up_token=message.token or 0,
    )
    _tell(message, EventKind.MESSAGE_UNCERTAIN, receipt)
    log.warning("session %s: the engine says that message %s, which it accepted, failed", message.session.name, message)


def _tell(message: Message, kind: EventKind, receipt: Receipt, **data: Any) -> None:
    Event.objects.create(
        kind=kind, session_id=message.session_id, message=message,
        data={"receipt": receipt.stage, "source": receipt.source, **data},
    )  # fmt: skip
