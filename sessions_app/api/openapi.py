"""The API's document: what ninja writes of our types, with the errors and the keys that it has no words for."""

from http import HTTPStatus
from typing import Any

from ninja.openapi.schema import REF_TEMPLATE, OpenAPISchema
from ninja.operation import Operation

from sessions_app.api.auth import KeyAuth
from sessions_app.api.problems import CONTENT_TYPE, Problem, from_exception
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.exceptions import InvalidInput, SessionNotFound, StillRunning

TITLE = "waqueue"
DESCRIPTION = """
Send WhatsApp messages through your own numbers ("sessions"). A message that is answered with 202 is kept in PostgreSQL;
it is sent in its session's order, at its session's pace, and can always be asked for by its id.

**Keys.** `Authorization: Bearer <key>` or `X-Api-Key: <key>`. A key has scopes, of which none holds another: `read` for
what is asked, `send` for what is done with messages, `manage` for what is done with sessions. A key may be limited to
sessions; others do not exist for it, and it creates none.

**Times** are RFC 3339 in UTC, ids are UUIDs that sort by time, phones are accepted as people type them and shown in
E.164. What is not there is null.

**Errors** have one shape, RFC 9457, for every status; `code` is stable. A field or a parameter that is not known is
refused, so that a misspelt one is never ignored.

**Lists** come in pages: pass `next` as `cursor` until it is null.
"""
TAGS = [
    {"name": "Sessions", "description": "The numbers through which messages go."},
    {"name": "Messages", "description": "What is sent, and what became of it."},
    {"name": "Batches", "description": "Many messages at once."},
    {"name": "Queues", "description": "What waits."},
    {"name": "Orphans", "description": "Messages whose session is not there: kept, to be restored or purged."},
    {"name": "Reconciliation", "description": "Redis held against PostgreSQL, and put right."},
    {"name": "Hooks", "description": "For engines. No key is needed: each request is verified by its signature."},
    {"name": "Operations", "description": "For load balancers. No key is needed."},
]
_DESCRIPTIONS = {
    400: "The body is not JSON, or the request is not one.",
    401: "There is no key, or it is not valid.",
    403: "The key has not the scope that this needs: `missing_scope`.",
    404: "It is not there, or the key may not see it.",
    409: "It is not in a state for this, or the first request with the Idempotency-Key is still running.",
    411: "A body without Content-Length.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    422: "Something does not fit; `errors` says which field and why.",
    500: "A mistake of ours. It was logged.",
    503: "PostgreSQL cannot be reached. With an Idempotency-Key, nothing is made twice when it is sent again.",
}
_EXAMPLES: dict[int, Exception] = {
    404: SessionNotFound("there is no session named 'sales': create it first"),
    409: StillRunning(),
    422: InvalidInput([{"field": "phone", "message": "a phone has 5 to 15 digits"}]),
}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <key>"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


class Document(OpenAPISchema):
    """The document of the API."""

    def get_components(self) -> dict[str, Any]:
        """Return the schemas, each error answer once, and how to bring a key."""
        schema = ProblemOut.model_json_schema(ref_template=REF_TEMPLATE)
        self.add_schema_definitions(schema.pop("$defs"))
        self.add_schema_definitions({"ProblemOut": schema})
        reference = {"$ref": REF_TEMPLATE.format(model="ProblemOut")}
        responses = {
            _name(status): {
                "description": text,
                "content": {CONTENT_TYPE: {"schema": reference, "example": _example(status)}},
            }
            for status, text in _DESCRIPTIONS.items()
        }
        return {**super().get_components(), "responses": responses, "securitySchemes": _SECURITY_SCHEMES}

    def operation_parameters(self, operation: Operation) -> list[dict[str, Any]]:
        """Return what goes into the address and the headers."""
        found = super().operation_parameters(operation)
        for parameter in found:
            parameter["schema"] = _without_null(parameter["schema"])
        return found

    def responses(self, operation: Operation) -> dict[int, dict[str, Any]]:
        """Return what an operation answers, errors too."""
        found = {status: answer for status, answer in super().responses(operation).items() if status < 400}
        for status in sorted(_errors_of(operation)):
            found[status] = {"$ref": f"#/components/responses/{_name(status)}"}
        return found

    def operation_security(self, operation: Operation) -> list[dict[str, Any]] | None:
        """Return the two ways to bring a key, with the scope that it needs."""
        scopes = [guard.scope.value for guard in operation.auth_callbacks if isinstance(guard, KeyAuth)]
        return [{name: scopes} for name in _SECURITY_SCHEMES] if scopes else []


def _example(status: int) -> dict[str, Any]:
    error = _EXAMPLES.get(status)
    problem = from_exception(error) if error else None
    return (problem or Problem.of_status(status)).body()


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter: it can be left out, but an address has no null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**choices[0], **rest}


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def _errors_of(operation: Operation) -> set[int]:
    statuses = {status for status in operation.response_models if status >= 400} | {500}
    if operation.auth_callbacks:
        statuses |= {401, 403, 503}
    sources = {model.__ninja_param_source__ for model in operation.models}
    if "path" in sources:
        statuses.add(404)
    if sources & {"query", "header", "body"}:
        statuses.add(422)
    if "body" in sources or "requestBody" in (operation.openapi_extra or {}):
        statuses |= {400, 411, 413, 415}
    return statuses
