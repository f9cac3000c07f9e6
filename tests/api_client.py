"""A client of the API for tests: it looks at every answer, and at the shape of every error."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.test import Client

from sessions_app.models import ApiKey, Scope
from sessions_app.services import api_keys
from tests.factories import ACTOR

ALL = tuple(Scope.values)


@dataclass(frozen=True)
class Answer:
    """What the API said. `headers` are by name, in any case."""

    status: int
    body: Any
    headers: Any

    def __getitem__(self, name: str) -> Any:
        return self.body[name]

    @property
    def fields(self) -> list[str]:
        """The fields that a 422 names."""
        assert self.status == 422, self.body
        return [error["field"] for error in self.body["errors"]]


class ApiClient:
    """Calls the API with a key; without scopes with one that may do everything, without a key when `plain` is empty."""

    def __init__(self, *scopes: str, sessions: tuple[str, ...] = (), plain: str | None = None) -> None:
        self.key: ApiKey | None = None
        if plain is None:
            self.key, plain = api_keys.create(
                name=uuid.uuid4().hex,
                scopes=list(scopes or ALL),
                session_names=list(sessions),
                expires_at=None,
                actor=ACTOR,
            )
        self.plain = plain
        self._client = Client(raise_request_exception=False)

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for something."""
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Have something done."""
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any) -> Answer:
        """Change something."""
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Answer:
        """Delete something."""
        return self.call("DELETE", path)

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **headers: str
    ) -> Answer:
        """Send a request; headers are written with underscores. A body that is no text is sent as JSON."""
        if not isinstance(body, (str, bytes)):
            body = b"" if body is None else json.dumps(body)
        if self.plain:
            headers.setdefault("Authorization", f"Bearer {self.plain}")
        response = self._client.generic(
            method,
            path,
            body,
            content_type,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        return _checked(response.status_code, response.content, response.headers)

    def pages(self, path: str, limit: int) -> Iterator[list[dict[str, Any]]]:
        """Follow a list by its cursors."""
        mark = "&" if "?" in path else "?"
        page = self.get(f"{path}{mark}limit={limit}")
        while True:
            assert page.status == 200, page.body
            yield page["items"]
            if page["next"] is None:
                return
            page = self.get(f"{path}{mark}limit={limit}&cursor={page['next']}")


def _checked(status: int, content: bytes, headers: Any) -> Answer:
    kind = headers["Content-Type"]
    if status < 400:
        assert kind == "application/json", (status, kind, content)
        return Answer(status, json.loads(content), headers)
    return checked_problem(status, kind, content, headers)


def checked_problem(status: int, kind: str | None, content: bytes, headers: Any) -> Answer:
    """Return an error after a look at its shape: RFC 9457, with our code, no HTML, no trace of our code."""
    assert kind == "application/problem+json", (status, kind, content[:200])
    body = json.loads(content)
    assert {"type", "title", "status", "detail", "code"} <= body.keys(), body
    assert body["status"] == status
    assert body["type"] == f"urn:waqueue:problem:{body['code']}"
    assert body["code"].replace("_", "").islower() and body["title"] and body["detail"]
    assert ("errors" in body) == (status == 422)
    assert b"Traceback" not in content and b"<html" not in content.lower()
    return Answer(status, body, headers)
