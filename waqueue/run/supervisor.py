"""Starts everything in order, keeps it running, and stops it in the opposite order."""

import http.client
import json
import os
import sys
import time

from waqueue.embedded import ServerError
from waqueue.embedded.system import is_port_free

from .child import Child, manage
from .configuration import Configuration, RunError
from .console import Console
from .credentials import Credentials
from .greeting import greeting
from .home import Home
from .loop import Loop
from .restarts import Keeper, Part
from .stores import check_named_stores, embedded_servers

_READY_WITHIN_S = 120
_WORKER_WITHIN_S = 30
_WEB_GRACE_S = 35
"""A little more than gunicorn gives its own requests."""


class Supervisor:
    """One run: PostgreSQL, Valkey, a worker and the web server, in this order."""

    def __init__(self, configuration: Configuration, home: Home, loop: Loop, console: Console) -> None:
        self._configuration = configuration
        self._home = home
        self._loop = loop
        self._console = console
        self._parts: list[Part] = []

    def run(self) -> None:
        """Start everything, greet, and watch until StopRequested is raised."""
        self._check_port()
        credentials = Credentials(self._configuration, self._home, self._loop, self._console)
        environ = self._start_stores(credentials)
        self._home.publish(environ)
        manage(self._loop, environ, "migrate", "--noinput", show=True)
        self._start(self._worker(environ))
        self._start(self._web(environ))
        # While those two come up.
        password, api_key = credentials.admin_password(environ), credentials.api_key(environ)
        self._wait_until_ready()
        # What was written until now comes before the greeting, which then stays the last thing to read.
        self._loop.wait(0.5)
        self._console.plain(greeting(self._configuration, password, api_key))
        keepers = [Keeper(part, self._console) for part in self._parts]
        while True:
            self._loop.wait(0.5)
            for keeper in keepers:
                keeper.look(time.monotonic())

    def stop(self) -> None:
        """Stop everything: the web server, the worker (which finishes what it is sending), then the stores."""
        self._home.withdraw()
        for part in reversed(self._parts):
            try:
                part.stop()
            except ServerError as error:
                self._console.say(f"{error}.")

    def _start(self, part: Part) -> None:
        # Noted first: a start that is interrupted has to be stopped too.
        self._parts.append(part)
        part.start()

    def _check_port(self) -> None:
        bind, port = self._configuration.bind, self._configuration.port
        if not is_port_free(port, bind or "0.0.0.0"):  # noqa: S104 - as gunicorn reads an empty host
            raise RunError(
                f"port {port} of {bind} cannot be had: stop the program that has it, or set WAQUEUE_PORT to another"
            )

    def _start_stores(self, credentials: Credentials) -> dict[str, str]:
        """Start what is embedded and return the environment in which waqueue's own processes run."""
        environ = dict(os.environ)
        if not environ.get("WAQUEUE_SECRET_KEY"):
            environ["WAQUEUE_SECRET_KEY"] = self._home.secret_key()
        # Lines are shown as they are written.
        environ["PYTHONUNBUFFERED"] = "1"
        check_named_stores(self._configuration, self._console)
        postgres, valkey = embedded_servers(self._configuration, self._loop)
        if postgres:
            self._console.say("Starting PostgreSQL; the first time takes a few seconds.")
            self._start(postgres)
            self._console.say(f"PostgreSQL is ready. Its log: {postgres.log_file}")
            if postgres.is_new:
                credentials.forget()
            environ["DATABASE_URL"] = postgres.url
        if valkey:
            self._start(valkey)
            self._console.say(f"Valkey is ready. Its log: {valkey.log_file}")
            environ["REDIS_URL"] = valkey.url
        return environ

    def _worker(self, environ: dict[str, str]) -> Child:
        # Past its own deadline for sends that are on their way, a little for handing back the rest.
        grace_s = self._configuration.drain_s + 15
        return Child("worker", [sys.executable, "manage.py", "rqworker"], environ, self._loop, grace_s=grace_s)

    def _web(self, environ: dict[str, str]) -> Child:
        argv = [sys.executable, "-m", "gunicorn", "waqueue.wsgi", "--bind", self._configuration.listen_address]
        argv += ["--worker-class", "gthread", "--threads", "8", "--no-control-socket"]
        # Two, so that one that is restarted is not an outage. gunicorn reads the number from here.
        environ = {"WEB_CONCURRENCY": "2", **environ}
        return Child("web", argv, environ, self._loop, grace_s=_WEB_GRACE_S)

    def _wait_until_ready(self) -> None:
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < _READY_WITHIN_S:
            for part in self._parts:
                if not part.is_running():
                    raise RunError(f"{part.title} ended while starting: its lines above say why")
            state = self._readiness()
            if state == "ok":
                return
            if state and elapsed > _WORKER_WITHIN_S:
                self._console.say(f"The web server answers, but not everything is well: {state}.")
                return
            self._loop.wait(0.5)
        raise RunError(f"the web server did not become ready within {_READY_WITHIN_S} s: its lines above say why")

    def _readiness(self) -> str:
        """Return "ok", an empty text while the web server cannot serve, or else what it says is amiss."""
        connection = http.client.HTTPConnection(*self._configuration.local_address, timeout=5)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            body = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()
        if response.status >= 500:
            return ""
        try:
            answer = json.loads(body)
        except ValueError:
            # WAQUEUE_ALLOWED_HOSTS may not have the address under which we ask.
            return f"/readyz answers {response.status}"
        return str(answer.get("reason") or answer.get("status") or body) if answer.get("status") != "ok" else "ok"
