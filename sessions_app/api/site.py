"""The API as a whole: who handles what fails, and which room has which addresses."""

from functools import cached_property
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI, Swagger
from ninja.errors import HttpError, ValidationError

from sessions_app.api import batches, health, hooks, messages, orphans, queues, reconciliations, sessions
from sessions_app.api.openapi import DESCRIPTION, TAGS, TITLE, Document
from sessions_app.api.parser import JsonParser
from sessions_app.api.problems import ApiError, Problem, from_exception
from sessions_app.api.validation import from_pydantic

_VERSION = "1.0.0"


class Api(NinjaAPI):
    """Ninja with our document, which is written once."""

    @cached_property
    def document(self) -> Document:
        """Return the OpenAPI document. It depends on nothing but the code."""
        return Document(self, "")

    def get_openapi_schema(self, **_where: Any) -> Document:
        """Return the OpenAPI document."""
        return self.document

    def get_content_type(self) -> str:
        """Return the type of every answer that is no error: JSON is always UTF-8."""
        return "application/json"


def _answer(request: HttpRequest, error: Any) -> HttpResponse:
    problem = _problem(error)
    if problem is None:
        # A mistake of ours: Django logs it, and `problems.server_error` answers.
        raise error
    return problem.response()


def _problem(error: BaseException) -> Problem | None:
    match error:
        case ValidationError():
            return from_exception(from_pydantic(error.errors))
        case HttpError():
            # What the parser raised comes wrapped.
            if isinstance(error.__cause__, ApiError):
                return error.__cause__.problem
            return Problem.of_status(error.status_code)
    return from_exception(error)


api = Api(
    title=TITLE,
    version=_VERSION,
    description=DESCRIPTION,
    urls_namespace="api",
    openapi_url="/whatsapp/openapi.json",
    docs_url="/whatsapp/docs",
    # Swagger UI comes with ninja. No address of it is sent to a validator on the internet.
    docs=Swagger(settings={"validatorUrl": None}),
    parser=JsonParser(),
    openapi_extra={"tags": TAGS},
)
for _error in (Exception, HttpError, ValidationError, Http404):
    api.add_exception_handler(_error, _answer)
api.add_router("/whatsapp/sessions", sessions.router)
api.add_router("/whatsapp", messages.router)
api.add_router("/whatsapp", batches.router)
api.add_router("/whatsapp/queues", queues.router)
api.add_router("/whatsapp/orphans", orphans.router)
api.add_router("/whatsapp/tasks", orphans.task_router)
api.add_router("/whatsapp/reconciliations", reconciliations.router)
api.add_router("/whatsapp", hooks.router)
api.add_router("", health.router)
