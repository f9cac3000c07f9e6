"""A process of ours that is not a server with data: the web server, the worker, a command."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from waqueue.embedded.system import end_session, spawn

from .configuration import PROJECT, RunError
from .loop import Loop

_HURRIED_GRACE_S = 5


class Child:
    """One program in a session of its own, its lines shown under its name."""

    def __init__(
        self, title: str, argv: Sequence[str], environ: Mapping[str, str], loop: Loop, *, grace_s: float
    ) -> None:
        self.title = title
        self._argv = argv
        self._environ = environ
        self._loop = loop
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program. What an earlier start of it left behind ends first."""
        self._end()
        self._process = _spawn(self._argv, self._environ, stderr=subprocess.STDOUT)
        if self._process.stdout:
            self._loop.follow(self.title, self._process.stdout)

    def is_running(self) -> bool:
        """Say whether the program lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask the program to end, and when its grace is over (soon, after a second Ctrl-C), end it."""
        if self._process is not None and self.is_running():
            self._process.terminate()
            self._loop.wait_for(lambda: not self.is_running() or self._loop.is_hurried, self._grace_s)
            hurried_until = time.monotonic() + _HURRIED_GRACE_S
            while self.is_running() and self._loop.is_hurried and time.monotonic() < hurried_until:
                # A worker takes a second SIGTERM as "now". Two that come together count as one, so it is said again.
                self._process.terminate()
                self._loop.wait_for(lambda: not self.is_running(), 0.5)
        self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        end_session(self._process.pid)
        self._process.wait()
        # What it wrote last is still to be shown.
        if stream := self._process.stdout:
            self._loop.wait_for(lambda: stream.closed, 2)
        self._process = None


def manage(loop: Loop, environ: Mapping[str, str], *arguments: str, show: bool = False) -> list[str]:
    """Run a command of manage.py to its end and return the lines of its standard output. Raise RunError if it fails."""
    name = arguments[0]
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if show:
            loop.console.line(name, line)

    process = _spawn([sys.executable, "manage.py", *arguments], environ, stderr=subprocess.PIPE)
    output, errors = process.stdout, process.stderr
    if output is None or errors is None:
        raise RunError(f"manage.py {name} has no output")
    loop.follow(name, output, keep)
    loop.follow(name, errors)
    try:
        loop.wait_for(lambda: output.closed and errors.closed, 600)
    finally:
        end_session(process.pid)
        process.wait()
    if process.returncode:
        raise RunError(f"manage.py {name} failed: its lines above say why")
    return lines


def _spawn(argv: Sequence[str], environ: Mapping[str, str], *, stderr: int) -> subprocess.Popen[bytes]:
    return spawn(argv, when_parent_dies=signal.SIGTERM, stdout=subprocess.PIPE, stderr=stderr, env=environ, cwd=PROJECT)
