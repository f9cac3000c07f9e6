"""Requests to a web server of the stack's, over real HTTP."""

import http.client
import json
from typing import Any


def call(port: int, method: str, path: str, body: bytes | None = None, key: str = "") -> tuple[int, Any]:
    """Send a request; return the status and what the answer's JSON says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
