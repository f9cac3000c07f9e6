"""The addresses of batches."""

import uuid
from functools import cache
from typing import Annotated

from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from ninja import Path, Query, Router
from pydantic import WithJsonSchema as Documented

from sessions_app.api import idempotency
from sessions_app.api.auth import ApiRequest, needs
from sessions_app.api.pagination import broken_cursor, cut, read_cursor
from sessions_app.api.parser import parse_large
from sessions_app.api.schemas.batches import (
    BATCH_IN,
    BatchAccepted,
    BatchCancelled,
    BatchOut,
    BatchPage,
    BatchParameters,
    entries_of,
    read,
)
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.models import Batch, Message, Scope
from sessions_app.services import batches
from sessions_app.services.database_clock import database_now

router = Router(tags=["Batches"])

Name = Annotated[str, Path(description="The session's name.")]
BatchId = Annotated[str, Documented({"type": "string", "format": "uuid"}), Path(description="The batch's id.")]


@router.post(
    "/sessions/{name}/messages/batch",
    auth=needs(Scope.SEND),
    response={202: BatchAccepted, 409: ProblemOut},
    summary="Send a batch",
    description=f"Up to {batches.MOST:,} messages, each with the fields of a single one. A bad entry does not sink the "
    "good ones: it is told in `rejected`, by its place in `messages`, also when no entry fits. All others are kept "
    "together, or none is, and are sent in their order, behind what was accepted before. A batch may be larger than "
    "other bodies: 413 says how large.",
    operation_id="send_batch",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": BATCH_IN}}, "required": True}},
)
def send_batch(request: ApiRequest, name: Name, idempotency_key: idempotency.Key = None) -> HttpResponse:
    """Keep what fits of a batch."""
    entries = entries_of(parse_large(request, settings.WAQUEUE_MAX_BATCH_BYTES, "WAQUEUE_MAX_BATCH_BYTES"))
    # Before the transaction: reading ten thousand entries takes a while.
    drafts, rejected = read(entries, cache(database_now))

    def make() -> tuple[int, BatchAccepted]:
        caller = request.auth
        batch = batches.submit(caller.session(name), drafts, rejected=len(rejected), actor=caller.actor)
        at = batches.estimated_done_at(batch, batch.created_at)
        return 202, BatchAccepted(
            batch_id=batch.pk, accepted=batch.accepted, rejected=rejected, estimated_done_at=at
        )  # fmt: skip

    return idempotency.once(request, make, said=entries)


@router.get(
    "/batches",
    auth=needs(Scope.READ),
    response={200: BatchPage, 404: ProblemOut},
    summary="List batches",
    description="Newest first. `estimated_done_at` is null here: ask for one batch to have it.",
    operation_id="list_batches",
)
def list_(request: ApiRequest, wanted: Query[BatchParameters]) -> BatchPage:
    """List the batches of the sessions that the key sees."""
    rows = request.auth.batches().select_related("session").order_by("-pk")
    if wanted.session is not None:
        rows = rows.filter(session__in=request.auth.rows_named(wanted.session))
    if cursor := read_cursor(wanted.cursor, "batch"):
        try:
            rows = rows.filter(pk__lt=uuid.UUID(cursor[1]))
        except ValueError:
            raise broken_cursor() from None
    found, following = cut(rows, wanted.limit, "batch", lambda row: row.pk)
    counts = Message.objects.counted_by_batch(row.pk for row in found)
    return BatchPage(items=[BatchOut.of(row, counts[row.pk]) for row in found], next=following)


@router.get(
    "/batches/{batch_id}",
    auth=needs(Scope.READ),
    response=BatchOut,
    summary="Get a batch",
    description="How far it is. Its messages are in the list of messages, by `batch`.",
    operation_id="get_batch",
)
def get(request: ApiRequest, batch_id: BatchId) -> BatchOut:
    """Return one batch."""
    batch = batches.get(request.auth.batch(batch_id))
    return BatchOut.of(batch, _counts(batch), estimated_done_at=batches.estimated_done_at(batch, timezone.now()))


@router.post(
    "/batches/{batch_id}/cancel",
    auth=needs(Scope.SEND),
    response=BatchCancelled,
    summary="Cancel the rest of a batch",
    description="Cancels what is queued or scheduled. What was sent, or is on its way, is not touched. Asked again, it "
    "cancels what there is by then, so that it can be repeated. What waits to be sent again by its session's policy "
    "becomes `uncertain` instead, and counts as `not_cancelled`.",
    operation_id="cancel_batch",
)
def cancel(request: ApiRequest, batch_id: BatchId) -> BatchCancelled:
    """Cancel what is not on its way yet."""
    caller = request.auth
    wanted = caller.batch(batch_id)
    done = batches.cancel(wanted, actor=caller.actor, session_ids=caller.session_ids)
    batch = batches.get(wanted)
    return BatchCancelled.after(done, batch, _counts(batch), batches.estimated_done_at(batch, timezone.now()))


def _counts(batch: Batch) -> dict[str, int]:
    return Message.objects.counted_by_batch([batch.pk])[batch.pk]
