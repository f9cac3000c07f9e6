"""Requests to the web server, each over a connection of its own, as if from a client somewhere."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

_PATIENCE_SECONDS = 15


class Lost(Exception):
    """No answer came: nobody here knows whether the request was heard."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Web:
    """Where the web server is, and the key that opens it."""

    port: int
    key: str

    def call(
        self, method: str, path: str, body: Any = None, *, once: str | None = None, hang_up_after: float | None = None
    ) -> Reply:
        """Ask once. `once` is the Idempotency-Key. With `hang_up_after` nobody waits for the answer. Raises Lost."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if once is not None:
            headers["Idempotency-Key"] = once
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request(method, f"/whatsapp{path}", None if body is None else json.dumps(body), headers)
            if hang_up_after is not None:
                # How far it has come by then is the machine's business, as it is with clients.
                time.sleep(hang_up_after)
                raise Lost
            response = connection.getresponse()
            return Reply(response.status, json.loads(response.read() or b"null"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Lost from error
        finally:
            connection.close()

    def is_up(self) -> bool:
        """Whether it answers at all."""
        try:
            return self.call("GET", "/sessions?limit=1").status == 200
        except Lost:
            return False
