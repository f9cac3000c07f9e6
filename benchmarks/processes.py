"""A process under measurement: started, read from, weighed, ended."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.report import BenchmarkError
from waqueue.embedded.system import end_session, spawn

PROJECT = Path(__file__).resolve().parents[1]


class Process:
    """A program in a session of its own, which dies with us."""

    def __init__(
        self, argv: list[str | Path], *, log: Path, environ: Mapping[str, str] | None = None, cwd: Path = PROJECT
    ) -> None:
        self.log = log
        self._argv = argv
        with log.open("ab") as output:
            self._process = spawn(
                argv, when_parent_dies=signal.SIGKILL, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}, cwd=cwd,
            )  # fmt: skip
        self.pid = self._process.pid

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def wait_for_line(self, line: str, deadline_s: float) -> None:
        """Return when it has written that line."""
        self.wait_until(lambda: line in self.log.read_text("utf-8", "replace").splitlines(), deadline_s, f"says {line}")

    def wait_until(self, condition: Callable[[], object], deadline_s: float, what: str, pause_s: float = 0.02) -> None:
        """Return when the condition holds. Raise BenchmarkError when it ends before, or never does."""
        end = time.monotonic() + deadline_s
        while not condition():
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self._argv[-1]} ended ({self._process.returncode}):\n{self.tail()}")
            if time.monotonic() > end:
                raise BenchmarkError(f"not within {deadline_s:g} s: {what}\n{self.tail()}")
            time.sleep(pause_s)

    def wait(self, deadline_s: float) -> None:
        """Return when it has ended well."""
        try:
            code = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self._argv} still runs after {deadline_s:g} s:\n{self.tail()}") from None
        if code:
            raise BenchmarkError(f"{self._argv} failed ({code}):\n{self.tail()}")

    def memory_mb(self, what: str = "VmRSS") -> float:
        """What it has in memory now, or with `VmHWM` the most that it ever had."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text("utf-8", "replace")[-2000:]

    def kill(self) -> None:
        """End it and everything that it started."""
        end_session(self.pid)
        self._process.wait()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
