"""A whole waqueue behind real HTTP, on stores of its own."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.api_client import Answer, checked_problem
from tests.processes import PROJECT, Process, find_free_port, gunicorn
from waqueue.embedded import EmbeddedPostgres, EmbeddedValkey


class Site:
    """A waqueue that answers HTTP: a web process, its own PostgreSQL and its own Redis. `environ` is the web's."""

    def __init__(self, postgres: EmbeddedPostgres, redis: EmbeddedValkey, log: Path, **environ: str) -> None:
        self.postgres = postgres
        self.redis = redis
        self.environ = {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
        self.manage("migrate", "-v0")
        scopes = [word for scope in ("read", "send", "manage") for word in ("--scope", scope)]
        self.key = self.manage("create_api_key", "test", *scopes).strip()
        self.port = find_free_port()
        self.process: Process = gunicorn(log, self.environ | environ, self.port)

    def manage(self, *arguments: str) -> str:
        """Run a command as an operator does, and return what it printed."""
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env=os.environ | self.environ, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request with the key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"Authorization": f"Bearer {self.key}"} | given
        if body is not None:
            given |= {"Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), given)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        kind = response.getheader("Content-Type")
        if response.status >= 400 and method != "HEAD":
            return checked_problem(response.status, kind, content, response.headers)
        return Answer(response.status, json.loads(content) if content else None, response.headers)

    def is_answering(self) -> bool:
        """Say whether the web process answers at all."""
        try:
            return self.call("GET", "/livez").status == 200
        except OSError:
            return False

    def raw(self, request: bytes) -> Answer:
        """Send bytes as they are, and read an error."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as plug:
            # It may have heard enough before the end. What it answered is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                plug.sendall(request)
            response = http.client.HTTPResponse(plug)
            response.begin()
            return checked_problem(
                response.status, response.getheader("Content-Type"), response.read(), response.headers
            )
