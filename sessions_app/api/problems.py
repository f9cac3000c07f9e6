"""The one error shape: RFC 9457 for the API, Django's own plain pages for the admin.

Whatever fails on an address of the API ends here, whoever failed: a service, ninja, Django's middleware or Django
itself. Never a stack trace, never HTML.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from django.core.exceptions import BadRequest, DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views import defaults

from sessions_app.exceptions import (
    Conflict,
    HookRefused,
    HookUnsigned,
    InvalidInput,
    NotFound,
    QueueUnavailable,
    WaqueueError,
)

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
# How long a client is asked to wait when a store is away: the time of one failed try at it.
RETRY_AFTER_SECONDS = 3
_ADDRESSES = re.compile(r"/(whatsapp|livez|readyz)(/|$)")
_HEALTH = ("/livez", "/readyz")
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    411: "length_required",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_input",
    500: "internal_error",
    503: "unavailable",
}
_DETAILS = {
    400: "The request cannot be read.",
    403: "This is not allowed.",
    404: "There is nothing at this address; /whatsapp/docs shows what there is.",
    405: "This address does not know the method; the header Allow says which it knows.",
    500: "Something went wrong in waqueue. It was logged; nothing that was answered with 2xx is affected.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong. `code` is stable and for programs, `detail` for people; `extra` becomes members beside them."""

    status: int
    code: str
    title: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_status(cls, status: int, detail: str = "", *, code: str = "", **headers: str) -> "Problem":
        """Describe a status in its own words, or in `code` and `detail`. Headers are written with underscores."""
        title = HTTPStatus(status).phrase
        return cls(
            status=status,
            code=code or _CODES.get(status, f"http_{status}"),
            title=title,
            detail=detail or _DETAILS.get(status, f"{title}."),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    def body(self) -> dict[str, Any]:
        """Return the members as plain JSON."""
        return {
            "type": f"urn:waqueue:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.extra,
        }

    def response(self) -> HttpResponse:
        """Return the answer."""
        response = JsonResponse(self.body(), status=self.status, content_type=CONTENT_TYPE, headers=dict(self.headers))
        # Made outside of Django's middleware, some of them have nobody else to say so.
        response.headers["Content-Length"] = str(len(response.content))
        return response


class ApiError(Exception):
    """Something that only HTTP knows went wrong: it is answered with its problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


def from_exception(error: BaseException) -> Problem | None:
    """Return what an exception means to a client; None when it is our own mistake."""
    match error:
        case ApiError():
            return error.problem
        case WaqueueError():
            return _from_waqueue(error)
        case OperationalError() | InterfaceError():
            log.error("a request was refused, since PostgreSQL cannot be reached: %s", _first_line(error))
            return _unavailable(
                "database_unavailable",
                "PostgreSQL cannot be reached. Try again; with an Idempotency-Key, nothing is made twice.",
            )
        case RequestDataTooBig():
            return Problem.of_status(413, "The body is larger than this server takes (WAQUEUE_MAX_BODY_BYTES).")
        case DisallowedHost():
            return Problem.of_status(
                400, "waqueue does not answer to this Host: it is not in WAQUEUE_ALLOWED_HOSTS.", code="unknown_host"
            )
        case SuspiciousOperation() | BadRequest():
            return Problem.of_status(400)
        case UnreadablePostError():
            return Problem.of_status(400, "The body ended before it was whole.")
        case PermissionDenied():
            return Problem.of_status(403)
        case Http404():
            return Problem.of_status(404)
    return None


def _from_waqueue(error: WaqueueError) -> Problem | None:
    extra = dict(error.extra)
    match error:
        case NotFound():
            status = HTTPStatus.NOT_FOUND
        case HookUnsigned():
            status = HTTPStatus.UNAUTHORIZED
        case HookRefused():
            status = HTTPStatus.FORBIDDEN
        case Conflict():
            status = HTTPStatus.CONFLICT
        case InvalidInput():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            extra["errors"] = error.errors
        case QueueUnavailable():
            return _unavailable(error.code, error.detail)
        case _:
            return None
    title = (type(error).__doc__ or "").split(".")[0]
    return Problem(status=status, code=error.code, title=title, detail=error.detail, extra=extra)


def _unavailable(code: str, detail: str) -> Problem:
    return Problem.of_status(503, detail, code=code, Retry_After=str(RETRY_AFTER_SECONDS))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def is_api(request: HttpRequest) -> bool:
    """Say whether the request is for an address of the API."""
    return _ADDRESSES.match(request.path_info) is not None


# Data is no page: whoever has a browser show it may load and frame nothing from there.
_DATA = ("application/json", CONTENT_TYPE)
_POLICY_OF_DATA = "default-src 'none'; frame-ancestors 'none'"


class ProblemMiddleware:
    """Give every answer of the API that is an error the one shape, whoever made it; and answer HEAD like GET."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on, and look at what comes back."""
        if not is_api(request):
            return self.get_response(request)
        # The API knows no cookies: a browser's login must not cost a query here, nor the loss of it an answer. What
        # pages need besides is left out as well.
        request.COOKIES = {}
        request.is_api = True  # type: ignore[attr-defined]
        if request.path_info in _HEALTH:
            # A load balancer asks by address, not by a name that is in WAQUEUE_ALLOWED_HOSTS.
            request.get_host = lambda: "localhost"  # type: ignore[method-assign]
        is_head = request.method == "HEAD"
        if is_head:
            request.method = "GET"
        response = _refusal(request) or self.get_response(request)
        if response.status_code >= 400 and response["Content-Type"] != CONTENT_TYPE:
            response = _reshaped(response)
        # Recipients and contents are nobody's to keep on the way.
        response.headers.setdefault("Cache-Control", "no-store")
        if response["Content-Type"].startswith(_DATA):
            response.headers["Content-Security-Policy"] = _POLICY_OF_DATA
        if is_head:
            request.method = "HEAD"
            response.headers["Content-Length"] = str(len(response.content))
            response.content = b""
        return response


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """Refuse a body in chunks: Django would take it for an empty one."""
    if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
        return Problem.of_status(411, "A body is only read with a Content-Length, not in chunks.").response()
    return None


def _reshaped(response: HttpResponse) -> HttpResponse:
    headers = {}
    if "Allow" in response:
        allowed = {method.strip() for method in response["Allow"].split(",")}
        headers["Allow"] = ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
    return Problem.of_status(response.status_code, **headers).response()


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what Django found unreadable or suspicious."""
    if is_api(request):
        return (from_exception(exception) or Problem.of_status(400)).response()
    return defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer what is not allowed."""
    if is_api(request):
        return Problem.of_status(403).response()
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer an address that there is not."""
    if is_api(request):
        return Problem.of_status(404).response()
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer after a mistake of ours, which Django has logged."""
    if is_api(request):
        return Problem.of_status(500).response()
    return defaults.server_error(request)
