"""What engines tell by themselves. Each request is verified as its engine signs; there is no key."""

from django.http import HttpRequest
from ninja import Router

from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.fields import is_session_name
from sessions_app.api.schemas.hooks import Received
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.exceptions import HookNotFound, SecretUnreadable
from sessions_app.models import Session
from sessions_app.services import receipts

router = Router(tags=["Hooks"])

# A receipt takes a few kilobytes.
_MOST_BYTES = 1024 * 1024


@router.post(
    "/hooks/{name}",
    auth=None,
    response={200: Received, 401: ProblemOut, 403: ProblemOut, 413: ProblemOut, 503: ProblemOut},
    summary="Take in what an engine tells",
    description="For the engine's webhooks: receipts, and news of its session. Each is verified by the session's "
    "`webhook_secret`: 401 without a signature, 403 with a wrong one or when it is older than a day, 404 where nothing "
    "is expected. What is signed is answered with 200, also when it tells of no message of waqueue's.",
    operation_id="receive_hook",
)
def receive(request: HttpRequest, name: str) -> Received:
    """Believe what is signed, and keep it."""
    size = request.META.get("CONTENT_LENGTH") or "0"
    if size.isdigit() and int(size) > _MOST_BYTES:
        raise ApiError(Problem.of_status(413, f"A webhook takes {_MOST_BYTES} bytes at most."))
    session = Session.objects.alive().filter(name=name).first() if is_session_name(name) else None
    if session is None:
        raise HookNotFound(f"there is no session named {name!r}")
    try:
        return Received(receipts=receipts.receive(session, request.headers, request.body))
    except SecretUnreadable as error:
        raise ApiError(Problem.of_status(503, error.detail, code="secret_unreadable")) from None
