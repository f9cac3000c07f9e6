"""Real processes for tests: waqueue's worker and web server, started, stopped and killed, their output in a file."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from waqueue.embedded.system import end_session, find_free_port, parent_of, spawn

PROJECT = Path(__file__).resolve().parents[1]

T = TypeVar("T")

__all__ = [
    "PROJECT", "Process", "catches", "cpu_seconds", "descendants", "find_free_port", "gunicorn", "is_alive",
    "is_stopped", "rqworker", "until", "wait_until",
]  # fmt: skip


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str) -> T:
    """Ask until the answer is true and return it; fail, saying what was waited for, when the deadline has passed."""
    end = time.monotonic() + deadline_s
    while True:
        answer = predicate()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what} (last answer: {answer!r})"
        time.sleep(0.02)


async def until(predicate: Callable[[], Any], deadline_s: float, what: str) -> None:
    """Ask as `wait_until` does, while the event loop goes on. What is asked may be a coroutine function."""
    end = time.monotonic() + deadline_s
    while True:
        answer = predicate()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process runs. One that has ended and waits to be counted out does not."""
    return _state(pid) not in ("", "Z")


def is_stopped(pid: int) -> bool:
    """Say whether a process was frozen by SIGSTOP."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """Return the letter by which Linux says what a process does; nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def catches(pid: int, how: signal.Signals) -> bool:
    """Say whether a process has a handler of its own for a signal. One that is gone or still starts has none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (how - 1) & 1)


def cpu_seconds(pid: int) -> float:
    """How long a process has kept a processor busy so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these started."""
    children = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and parent_of(int(entry)) == pid]
    return [found for child in children for found in (child, *descendants(child))]


class Process:
    """A program in a session of its own. It dies with the test run, whatever happens to that."""

    def __init__(
        self, argv: Sequence[str | Path], environ: Mapping[str, str], log: Path, *, cwd: Path = PROJECT
    ) -> None:
        self._argv = argv
        self._environ = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
        self._cwd = cwd
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Process":
        """Start the program; its output is added to the log."""
        with self.log.open("ab") as log:
            self._process = spawn(
                self._argv,
                when_parent_dies=signal.SIGKILL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self._cwd,
            )
        return self

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process is not None, "the process was never started"
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything that the program has written, over all its starts."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def is_running(self) -> bool:
        """Say whether the program lives."""
        return self._process is not None and self._process.poll() is None

    def send(self, how: signal.Signals) -> None:
        """Send the program a signal."""
        os.kill(self.pid, how)

    def wait(self, deadline_s: float) -> int:
        """Wait for the program to end by itself and return its exit code."""
        assert self._process is not None, "the process was never started"
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._argv} still runs after {deadline_s:g} s:\n{self.output[-4000:]}") from None

    def stop(self, deadline_s: float = 90) -> int:
        """Ask the program to end (SIGTERM) and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(deadline_s)

    def kill(self) -> None:
        """End the program and everything that it started, at once (SIGKILL)."""
        if self._process is not None:
            end_session(self._process.pid)
            self._process.wait()


def rqworker(log: Path, environ: Mapping[str, str], *arguments: str) -> Process:
    """Return a worker as operators run it, not yet started."""
    return Process([sys.executable, "manage.py", "rqworker", *arguments], environ, log)


def gunicorn(log: Path, environ: Mapping[str, str], port: int, *, threads: int = 8) -> Process:
    """Return a web server as operators run it, on a port of 127.0.0.1, not yet started."""
    argv = [sys.executable, "-m", "gunicorn", "waqueue.wsgi", "--bind", f"127.0.0.1:{port}"]
    argv += ["--worker-class", "gthread", "--threads", str(threads), "--no-control-socket"]
    return Process(argv, environ, log)
