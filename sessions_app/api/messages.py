"""The addresses of messages."""

import uuid
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Annotated

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from ninja import Path, Query, Router
from pydantic import WithJsonSchema as Documented

from sessions_app.api import idempotency
from sessions_app.api.auth import ApiRequest, Caller, needs
from sessions_app.api.history import history_of
from sessions_app.api.pagination import broken_cursor, cut, read_cursor
from sessions_app.api.schemas.messages import (
    AssistanceReport,
    MessageDetail,
    MessageIn,
    MessageOut,
    MessagePage,
    MessageParameters,
    Resolution,
    Submitted,
)
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.models import DesiredState, Hold, Message, Scope, Status
from sessions_app.models.message import Ahead
from sessions_app.services import messages
from sessions_app.services.database_clock import database_now
from sessions_app.services.messages import Draft

router = Router(tags=["Messages"], by_alias=True)

Name = Annotated[str, Path(description="The session's name.")]
MessageId = Annotated[str, Documented({"type": "string", "format": "uuid"}), Path(description="The message's id.")]

_ACCEPTED = {202: Submitted, 409: ProblemOut}
_CHANGED = {200: MessageDetail, 409: ProblemOut}


@router.post(
    "/sessions/{name}/send-assistance-report",
    auth=needs(Scope.SEND),
    response=_ACCEPTED,
    summary="Send an assistance report",
    description="A text, or with `document_url` a document whose caption the text is. 202 means: it is kept.",
    operation_id="send_assistance_report",
)
def send_assistance_report(
    request: ApiRequest, name: Name, payload: AssistanceReport, idempotency_key: idempotency.Key = None
) -> HttpResponse:
    """Keep one report."""
    return _submit(request, name, payload.draft)


@router.post(
    "/sessions/{name}/messages",
    auth=needs(Scope.SEND),
    response=_ACCEPTED,
    summary="Send a message",
    description="202 means: it is kept, will be sent in its session's order, and can always be asked for by its id.",
    operation_id="send_message",
)
def send_message(
    request: ApiRequest, name: Name, payload: MessageIn, idempotency_key: idempotency.Key = None
) -> HttpResponse:
    """Keep one message."""
    return _submit(request, name, payload.draft)


@router.get(
    "/messages",
    auth=needs(Scope.READ),
    response={200: MessagePage, 404: ProblemOut},
    summary="List messages",
    description="Newest first. `position` and `estimated_send_at` are null here: ask for one message to have them.",
    operation_id="list_messages",
)
def list_(request: ApiRequest, wanted: Query[MessageParameters]) -> MessagePage:
    """List the messages that the key sees and that fit."""
    rows = _filtered(request.auth, wanted).select_related("session").order_by("-pk")
    found, following = cut(rows, wanted.limit, "message", lambda row: row.pk)
    return MessagePage(items=[MessageOut.of(message) for message in found], next=following)


@router.get(
    "/messages/{message_id}",
    auth=needs(Scope.READ),
    response=MessageDetail,
    summary="Get a message",
    operation_id="get_message",
)
def get(request: ApiRequest, message_id: MessageId) -> MessageDetail:
    """Return one message with its history."""
    return _detail(messages.get(request.auth.message(message_id)))


@router.post(
    "/messages/{message_id}/cancel",
    auth=needs(Scope.SEND),
    response=_CHANGED,
    summary="Cancel a message",
    description="Only one that is queued or scheduled; 409 `wrong_state` says in `state` what it is. One that waits to "
    "be sent again by its session's policy becomes `uncertain` instead: an earlier attempt may have arrived.",
    operation_id="cancel_message",
)
def cancel(request: ApiRequest, message_id: MessageId) -> MessageDetail:
    """Cancel a message that is not on its way yet."""
    caller = request.auth
    return _detail(messages.cancel(caller.message(message_id), actor=caller.actor))


@router.post(
    "/messages/{message_id}/retry",
    auth=needs(Scope.SEND),
    response=_CHANGED,
    summary="Retry a message",
    description="Only one that failed or expired; its place stays. 409 `wrong_state` says in `state` what it is.",
    operation_id="retry_message",
)
def retry(request: ApiRequest, message_id: MessageId) -> MessageDetail:
    """Queue a failed or expired message once more."""
    caller = request.auth
    return _detail(messages.retry(caller.message(message_id), actor=caller.actor))


@router.post(
    "/messages/{message_id}/resolve",
    auth=needs(Scope.SEND),
    response=_CHANGED,
    summary="Resolve an uncertain message",
    description="Says what became of a message of which nobody knows whether it was sent, or has it sent again. "
    "409 `wrong_state` says in `state` what it is.",
    operation_id="resolve_message",
)
def resolve(request: ApiRequest, message_id: MessageId, payload: Resolution) -> MessageDetail:
    """Say what became of an uncertain message."""
    caller = request.auth
    return _detail(messages.resolve(caller.message(message_id), outcome=payload.outcome, actor=caller.actor))


def _submit(request: ApiRequest, name: str, draft: Callable[[Callable[[], datetime]], Draft]) -> HttpResponse:
    def make() -> tuple[int, Submitted]:
        session = request.auth.session(name)
        (message,) = messages.submit(session, [draft(cache(database_now))])
        place, at = _outlook(message, message.created_at, ahead=message.ahead)
        return 202, Submitted.of(message, position=place, estimated_send_at=at)

    return idempotency.once(request, make)


def _outlook(message: Message, now: datetime, *, ahead: Ahead | None = None) -> tuple[int | None, datetime | None]:
    """Return the place of a message in its line, and when it goes at the earliest.

    `ahead` is what stands before it, where that was looked up just now.
    """
    if message.status == Status.SCHEDULED:
        session = message.session
        is_serving = session.desired_state == DesiredState.ACTIVE and session.dispatch.hold == Hold.NONE
        return None, message.scheduled_at if is_serving else None
    place, at = messages.outlook(message, now, ahead=ahead)
    return place or None, at


def _detail(message: Message) -> MessageDetail:
    place, at = _outlook(message, timezone.now())
    return MessageDetail.of(message, position=place, estimated_send_at=at, history=history_of(message))


def _filtered(caller: Caller, wanted: MessageParameters) -> QuerySet[Message]:
    rows = caller.messages()
    if wanted.session is not None:
        rows = rows.filter(session__in=caller.rows_named(wanted.session))
    for column, value in (
        ("status", wanted.status),
        ("recipient", wanted.to),
        ("batch_id", wanted.batch),
        ("client_ref", wanted.client_ref),
    ):
        if value is not None:
            rows = rows.filter(**{column: value})
    if wanted.created_after is not None:
        # An id is never older than its message, so a range of ids spares the look at all older rows.
        milliseconds = max(0, int(wanted.created_after.timestamp() * 1000))
        rows = rows.filter(created_at__gt=wanted.created_after, pk__gte=uuid.UUID(int=milliseconds << 80))
    if cursor := read_cursor(wanted.cursor, "message"):
        try:
            rows = rows.filter(pk__lt=uuid.UUID(cursor[1]))
        except ValueError:
            raise broken_cursor() from None
    return rows
