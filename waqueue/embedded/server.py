"""What the embedded PostgreSQL and the embedded Valkey have in common: one process on one folder and one port."""

import logging
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .system import (
    ServerError,
    find_free_port,
    hold_lock,
    is_port_free,
    keep_secret,
    parent_of,
    processes_in,
    spawn,
    write_private,
)

logger = logging.getLogger("waqueue.embedded")

_LOG_ROTATES_AT_BYTES = 10_000_000
_POLL_S = 0.05


class EmbeddedServer(ABC):
    """A server that we run as our child, on data that outlive it.

    `folder` holds its data, its password, its port and its log. The port stays the same over restarts of one object,
    and over restarts of the program while nobody else has taken it. `sleep` is called while we wait: a caller that has
    more to do than to wait passes its own.
    """

    title: ClassVar[str]
    process_names: ClassVar[frozenset[str]]
    stop_signal: ClassVar[signal.Signals]
    """Ends the server in good order; also what the kernel sends it when we die."""
    start_deadline_s: ClassVar[float] = 300
    """Long, because a server that was killed first reads its log again. One that fails ends at once."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str | int] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder.absolute()
        self.settings = dict(settings or {})
        self.sleep = sleep
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._port: int | None = None
        self._is_port_promised = False

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients, with its password."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data and the configuration if they are not there. The folder is there and is ours."""

    @abstractmethod
    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, Any]]:
        """Return the command line and further arguments for `subprocess`."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Say whether the started server answers."""

    @abstractmethod
    def _complaint_of(self, line: str) -> str | None:
        """Return what a line of the server's log says is wrong, or None."""

    @property
    def data_dir(self) -> Path:
        """Where the data are."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        """Where the server writes what happens to it."""
        return self.folder / "log"

    @property
    def port(self) -> int:
        """The port of 127.0.0.1, chosen when first asked for."""
        if self._port is None:
            self._port = self._choose_port()
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process, or None when it does not run."""
        return self._process.pid if self._process and self.is_running() else None

    def is_running(self) -> bool:
        """Say whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers. Raise ServerError, in one sentence, if it cannot be."""
        if self.is_running():
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._end_left_over()
            self._prepare()
            self._start_on_a_port()
        except OSError as error:
            self._release_lock()
            what = error.filename or self.folder
            advice = "look at who owns it and whether there is room, or choose another folder"
            raise ServerError(f"{self.title} cannot use {what}: {error.strerror}; {advice}") from error
        except ServerError:
            self._release_lock()
            raise
        self._is_port_promised = True

    def stop(self, grace_s: float = 60) -> None:
        """End the server in good order, and if it has not ended when the grace is over, at once."""
        if self._process is not None and self.is_running():
            self._process.send_signal(self.stop_signal)
            if not self._wait_for(lambda: not self.is_running(), grace_s):
                logger.warning("%s did not stop within %.0f s and is killed.", self.title, grace_s)
        self.kill()

    def kill(self) -> None:
        """End the server and its children at once, as a crash would. What it had promised to keep is kept."""
        if self._process is not None:
            if self.is_running():
                self._process.kill()
            self._process.wait()
            self._process = None
            self._end_left_over(grace_s=0)
        self._release_lock()

    def _take_lock(self) -> None:
        if self._lock is None:
            self._lock = hold_lock(self.folder / "lock")
        if self._lock is None:
            raise ServerError(
                f"another process runs {self.title} on {self.folder}: stop that one, or use another folder"
            )

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_left_over(self, grace_s: float = 60) -> None:
        """End what a killed supervisor left running on our data. We hold the lock, so nobody needs it any more."""
        pids = processes_in(self.data_dir, self.process_names)
        if not pids:
            return
        if grace_s:
            logger.info("Stopping a %s that an earlier run left behind.", self.title)
            # Only to the server itself: to its children the same signal may mean something else.
            _signal_all([pid for pid in pids if parent_of(pid) not in pids], self.stop_signal)
        if not self._wait_for(lambda: not processes_in(self.data_dir, self.process_names), grace_s):
            _signal_all(processes_in(self.data_dir, self.process_names), signal.SIGKILL)
        if not self._wait_for(lambda: not processes_in(self.data_dir, self.process_names), 10):
            raise ServerError(f"an old {self.title} on {self.data_dir} does not end: end its processes and try again")

    def _choose_port(self) -> int:
        kept = self.folder / "port"
        try:
            port = int(kept.read_text())
        except (OSError, ValueError):
            port = 0
        if not 0 < port < 65_536 or not is_port_free(port):
            port = find_free_port()
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(kept, f"{port}\n")
        return port

    def _start_on_a_port(self) -> None:
        for _ in range(3):
            port = self.port
            if self._wait_for(lambda: is_port_free(self.port), 10 if self._is_port_promised else 0):
                complaint = self._launch()
                if complaint is None:
                    return
                if is_port_free(port):
                    raise ServerError(f"{self.title} did not start: {complaint} (its log is {self.log_file})")
            if self._is_port_promised:
                break
            self._port = None
        raise ServerError(f"{self.title} did not start: port {port} is taken; stop the program that has it")

    def _launch(self) -> str | None:
        """Start the process and wait until it answers. Return None then, or else the reason that its log gives."""
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_ROTATES_AT_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".1"))
        argv, options = self._command()
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            begin = os.fstat(descriptor).st_size
            self._process = spawn(
                argv, when_parent_dies=self.stop_signal, stdout=descriptor, stderr=subprocess.STDOUT, **options
            )
        finally:
            os.close(descriptor)
        self._wait_for(lambda: self._is_ready() or not self.is_running(), self.start_deadline_s)
        if self.is_running() and self._is_ready():
            return None
        complaint = "it does not answer" if self.is_running() else self._complaint_since(begin)
        self._process.kill()
        self._process.wait()
        self._process = None
        return complaint

    def _complaint_since(self, offset: int) -> str:
        with self.log_file.open("rb") as file:
            file.seek(offset)
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        complaints = [complaint for line in lines if (complaint := self._complaint_of(line))]
        return (complaints or lines or ["it gave no reason"])[-1]

    def _keep_password(self, name: str = "password") -> str:
        return keep_secret(self.folder / name)

    def _wait_for(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait until the condition holds; return whether it does."""
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.sleep(_POLL_S)
        return True


def _signal_all(pids: Sequence[int], how: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue
