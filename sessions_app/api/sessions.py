"""The addresses of sessions."""

from typing import Annotated

from django.db import transaction
from django.http import HttpResponse
from ninja import Path, Query, Router, Status

from sessions_app.api import idempotency
from sessions_app.api.auth import ApiRequest, needs
from sessions_app.api.pagination import PageParameters, cut, read_name
from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.api.schemas.sessions import (
    DeleteParameters,
    SessionCreated,
    SessionDeleted,
    SessionIn,
    SessionOut,
    SessionPage,
    SessionPatch,
)
from sessions_app.models import Scope, Session
from sessions_app.services import orphans, queue_overview, sessions
from sessions_app.services.pacing import Pacing
from sessions_app.transports import registry

router = Router(tags=["Sessions"])

Name = Annotated[str, Path(description="The session's name.")]
_ACTS: tuple[tuple[sessions.Act, str], ...] = (
    ("start", "Have it connect and send. Ends a hold: whoever starts it has looked."),
    ("stop", "Have it disconnect. Its messages stay where they are."),
    ("pause", "Have it send nothing more. What is on its way arrives; the rest waits."),
    ("resume", "Have it send again. Ends a hold: whoever resumes it has looked."),
    ("restart", "Have it connect anew and send. Ends a hold."),
)


@router.post(
    "",
    auth=needs(Scope.MANAGE),
    response={201: SessionCreated, 200: SessionCreated, 409: ProblemOut},
    summary="Create a session",
    description="Answers 201 with the new session, 200 when it is there already and nothing differs, and 409 "
    "`session_exists` when something does. A key that is limited to sessions creates none. Messages that waited in an "
    "orphan of its name go back into its queue if they are young enough (`restored`; over 1,000 in the background: "
    "`restoring`); for the others a person has to decide (`orphan`).",
    operation_id="create_session",
)
def create(
    request: ApiRequest,
    payload: SessionIn,
    idempotency_key: idempotency.Key = None,
) -> HttpResponse:
    """Create a session, or answer the same one."""
    caller = request.auth
    if caller.session_ids is not None:
        raise ApiError(
            Problem.of_status(
                403,
                "This key is limited to sessions that exist: take one that is not limited to create others.",
                code="key_is_limited",
            )
        )

    made: list[Session] = []

    def make() -> tuple[int, SessionOut]:
        transport = registry.get(payload.transport)
        session, adopted = sessions.create(
            name=payload.name,
            actor=caller.actor,
            transport=payload.transport,
            config=payload.config,
            pacing=payload.pacing.over(Pacing(**transport.default_pacing)) if payload.pacing else None,
            on_uncertain=payload.on_uncertain,
            max_in_flight=payload.max_in_flight,
            desired_state=payload.desired_state,
            adopts=False,
        )
        if adopted is not None:
            made.append(session)
        return (200 if adopted is None else 201), SessionCreated.made(_out(session), adopted)

    def then() -> SessionOut | None:
        if not made:
            return None
        adopted = orphans.adopt(made[0], actor=caller.actor)
        return SessionCreated.made(_out(made[0]), adopted)

    return idempotency.once(request, make, then=then)


@router.get(
    "",
    auth=needs(Scope.READ),
    response=SessionPage,
    summary="List sessions",
    operation_id="list_sessions",
)
def list_(request: ApiRequest, page: Query[PageParameters]) -> SessionPage:
    """List the sessions that the key sees, by name."""
    rows = request.auth.sessions().filter(name__gt=read_name(page.cursor, "session")).order_by("name")
    found, following = cut(rows, page.limit, "session", lambda row: row.name)
    views = queue_overview.views(found)
    items = [SessionOut.of(session, view) for session, view in zip(found, views, strict=True)]
    return SessionPage(items=items, next=following)


@router.get("/{name}", auth=needs(Scope.READ), response=SessionOut, summary="Get a session", operation_id="get_session")
def get(request: ApiRequest, name: Name) -> SessionOut:
    """Return one session."""
    return _out(request.auth.session(name))


@router.patch(
    "/{name}",
    auth=needs(Scope.MANAGE),
    response=SessionOut,
    summary="Change a session",
    description="Changes what is given, from the next message on. Of `config` and of `pacing` each member by itself: "
    "those that are not given stay. `quiet_hours` is one member, and null ends it.",
    operation_id="change_session",
)
def change(request: ApiRequest, name: Name, payload: SessionPatch) -> SessionOut:
    """Change what is given."""
    caller = request.auth
    given = {field: getattr(payload, field) for field in payload.model_fields_set}
    with transaction.atomic():
        # Held while its pacing is read and written, so that two changes of different members both hold.
        session = caller.session(name)
        locked = Session.objects.select_for_update(no_key=True).get(pk=session.pk)
        if "pacing" in given:
            given["pacing"] = payload.pacing.over(Pacing.of(locked))
        changed = sessions.update(locked, actor=caller.actor, **given)
    return _out(changed)


@router.delete(
    "/{name}",
    auth=needs(Scope.MANAGE),
    response={200: SessionDeleted, 409: ProblemOut},
    summary="Delete a session",
    description="Its history is kept, and its name may be used again. 409 `session_has_unsent_messages` says in "
    "`unsent` how many messages stand against it.",
    operation_id="delete_session",
)
def delete(request: ApiRequest, name: Name, how: Query[DeleteParameters]) -> SessionDeleted:
    """Delete a session and say what was done."""
    caller = request.auth
    done = sessions.delete(caller.session(name), actor=caller.actor, unsent=how.unsent)
    return SessionDeleted(session=name, cancelled=done.cancelled, uncertain=done.uncertain, orphaned=done.orphaned)


def _add_act(what: sessions.Act, description: str) -> None:
    @router.post(
        f"/{{name}}/{what}",
        auth=needs(Scope.MANAGE),
        response={202: SessionOut},
        summary=f"{what.capitalize()} a session",
        description=description,
        operation_id=f"{what}_session",
    )
    def act(request: ApiRequest, name: Name) -> Status[SessionOut]:
        caller = request.auth
        return Status(202, _out(sessions.act(caller.session(name), what, actor=caller.actor)))


for _what, _description in _ACTS:
    _add_act(_what, _description)


def _out(session: Session) -> SessionOut:
    (view,) = queue_overview.views([session])
    return SessionOut.of(session, view)
