"""The addresses of orphans and of the tasks that act on them."""

import uuid
from typing import Annotated

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Path, Query, Router

from sessions_app.api.auth import ApiRequest, Caller, needs
from sessions_app.api.pagination import PageParameters, broken_cursor, cut, read_cursor, write_cursor
from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.orphans import (
    EntryOut,
    EntryPage,
    ExportParameters,
    OrphanDone,
    OrphanOut,
    OrphanPage,
    OrphanParameters,
    PurgeIn,
    RestoreIn,
    TaskOut,
)
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.exceptions import NotFound
from sessions_app.models import Orphan, Scope
from sessions_app.services import audit, orphans, tasks
from sessions_app.services.orphans import Selection
from sessions_app.services.orphans.confirmed import restore_confirmed

router = Router(tags=["Orphans"])
task_router = Router(tags=["Orphans"])

OrphanId = Annotated[str, Path(description="The orphan's id.")]


@router.get("", auth=needs(Scope.READ), response=OrphanPage, summary="List orphans", operation_id="list_orphans")
def list_(request: ApiRequest, which: Query[OrphanParameters]) -> OrphanPage:
    """List the queues that belong to no session, live and archived ones alike, newest first."""
    _unlimited(request.auth)
    rows = Orphan.objects.order_by("-pk")
    if which.state == "unresolved":
        rows = rows.unresolved()
    elif which.state != "all":
        rows = rows.filter(state=which.state)
    if which.session is not None:
        rows = rows.filter(session_name=which.session)
    if after := _id_of(which.cursor):
        rows = rows.filter(pk__lt=after)
    found, following = cut(rows, which.limit, "orphan", lambda row: row.pk)
    return OrphanPage(items=[OrphanOut.of(row) for row in found], next=following)


@router.get(
    "/{orphan_id}", auth=needs(Scope.READ), response=OrphanOut, summary="Get an orphan", operation_id="get_orphan"
)
def get(request: ApiRequest, orphan_id: OrphanId) -> OrphanOut:
    """Return one orphan."""
    return OrphanOut.of(_orphan(request.auth, orphan_id))


@router.get(
    "/{orphan_id}/messages",
    auth=needs(Scope.READ),
    response=EntryPage,
    summary="List an orphan's messages",
    operation_id="list_orphan_messages",
)
def messages(request: ApiRequest, orphan_id: OrphanId, page: Query[PageParameters]) -> EntryPage:
    """List an orphan's messages in order, also those that cannot be read."""
    orphan = _orphan(request.auth, orphan_id)
    found, following = orphans.page(orphan, start=_index_of(page.cursor), count=page.limit)
    after = None if following is None else write_cursor("entry", str(found[-1].index))
    return EntryPage(items=[EntryOut.of(row) for row in found], next=after)


@router.get("/{orphan_id}/export", auth=needs(Scope.READ), summary="Export an orphan", operation_id="export_orphan")
def export(request: ApiRequest, orphan_id: OrphanId, how: Query[ExportParameters]) -> HttpResponse:
    """Stream all messages of an orphan, also those that cannot be read."""
    orphan = _orphan(request.auth, orphan_id)
    kind = "text/csv" if how.format == "csv" else "application/jsonl"
    count, rows = orphans.begin_export(orphan, how.format)
    audit.record(request.auth.actor, "export orphan", orphan.queue, count=count, format=how.format)
    response = StreamingHttpResponse(rows, content_type=f"{kind}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="orphan-{orphan.pk}.{how.format}"'
    return response  # type: ignore[return-value]


@router.post(
    "/{orphan_id}/archive",
    auth=needs(Scope.MANAGE),
    response={200: OrphanDone, 409: ProblemOut},
    summary="Archive an orphan",
    operation_id="archive_orphan",
)
def archive(request: ApiRequest, orphan_id: OrphanId) -> OrphanDone:
    """Copy a live orphan out of Redis into PostgreSQL, whole."""
    orphan = orphans.archive(_orphan(request.auth, orphan_id), actor=request.auth.actor)
    return OrphanDone(orphan=OrphanOut.of(orphan))


@router.post(
    "/{orphan_id}/restore",
    auth=needs(Scope.MANAGE),
    response={200: OrphanDone, 409: ProblemOut},
    summary="Restore an orphan",
    description="Puts its messages into a session's queue, in their old order. Unreadable ones stay, and so do those "
    "that were sent already, unless asked for.",
    operation_id="restore_orphan",
)
def restore(request: ApiRequest, orphan_id: OrphanId, payload: RestoreIn) -> OrphanDone:
    """Put an orphan's messages into a session."""
    caller = request.auth
    orphan = _orphan(caller, orphan_id)
    done = restore_confirmed(
        orphan,
        session_name=payload.session or orphan.session_name,
        create=payload.create,
        transport=payload.transport,
        selection=payload.only.selection() if payload.only else Selection(),
        with_duplicates=payload.with_duplicates,
        actor=caller.actor,
    )
    answer = OrphanDone(orphan=_now(orphan), session=done.session.name)
    if done.task is not None:
        answer.task = TaskOut.of(done.task)
    if done.restored is not None:
        answer.restored, answer.duplicates = done.restored.restored, done.restored.duplicates
    return answer


@router.post(
    "/{orphan_id}/purge",
    auth=needs(Scope.MANAGE),
    response={200: OrphanDone, 409: ProblemOut},
    summary="Purge an orphan",
    description="Deletes its messages for good. 409 `orphan_changed` when it holds another number than was expected.",
    operation_id="purge_orphan",
)
def purge(request: ApiRequest, orphan_id: OrphanId, payload: PurgeIn) -> OrphanDone:
    """Delete an orphan's messages for good."""
    caller = request.auth
    orphan = _orphan(caller, orphan_id)
    selection = payload.only.selection() if payload.only else Selection()
    expected = payload.expected_messages
    if expected > tasks.LARGE:
        task = orphans.purge_later(orphan, expected=expected, selection=selection, actor=caller.actor)
        return OrphanDone(orphan=_now(orphan), task=TaskOut.of(task))
    purged = orphans.purge(orphan, expected=expected, selection=selection, actor=caller.actor)
    return OrphanDone(orphan=_now(orphan), purged=purged)


@task_router.get("/{task_id}", auth=needs(Scope.READ), response=TaskOut, summary="Get a task", operation_id="get_task")
def get_task(request: ApiRequest, task_id: str) -> TaskOut:
    """Return how far a long act is."""
    _unlimited(request.auth)
    return TaskOut.of(tasks.get(_uuid(task_id, "task")))


@task_router.post(
    "/{task_id}/cancel",
    auth=needs(Scope.MANAGE),
    response={200: TaskOut, 409: ProblemOut},
    summary="Cancel a task",
    operation_id="cancel_task",
)
def cancel_task(request: ApiRequest, task_id: str) -> TaskOut:
    """Have a long act end after the part that it is doing. What it did stays done."""
    _unlimited(request.auth)
    return TaskOut.of(tasks.cancel(_uuid(task_id, "task"), actor=request.auth.actor))


def _orphan(caller: Caller, orphan_id: str) -> Orphan:
    _unlimited(caller)
    return orphans.get(_uuid(orphan_id, "orphan"))


def _unlimited(caller: Caller) -> None:
    if caller.session_ids is not None:
        raise ApiError(
            Problem.of_status(
                403,
                "This key is limited to sessions, and orphans have none: take one that is not.",
                code="key_is_limited",
            )
        )


def _now(orphan: Orphan) -> OrphanOut:
    return OrphanOut.of(orphans.get(orphan.pk))


def _uuid(text: str, what: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound(f"there is no {what} {text!r}: an id is a UUID") from None


def _id_of(cursor: str | None) -> uuid.UUID | None:
    read = read_cursor(cursor, "orphan")
    if read is None:
        return None
    try:
        return uuid.UUID(read[1])
    except ValueError:
        raise broken_cursor() from None


def _index_of(cursor: str | None) -> int:
    read = read_cursor(cursor, "entry")
    if read is None:
        return 0
    if not (read[1].isascii() and read[1].isdigit() and len(read[1]) < 10):
        raise broken_cursor()
    return int(read[1]) + 1
