"""What the embedded servers need of the operating system: ports, private files, locks, accounts, processes."""

import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

# Linux hands out ports for outgoing connections from 32768 on: a server's port below it is never taken by a client.
FIRST_PORT, LAST_PORT = 20_000, 32_767

_PR_SET_PDEATHSIG = 1


class ServerError(Exception):
    """A server could not be started or stopped. The message is one sentence that says what to do."""


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: connections of a server that has just stopped must not make its port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def find_free_port() -> int:
    """Return a free port of 127.0.0.1. Chosen at random, so that two that choose at the same time rarely collide."""
    for _ in range(200):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        if is_port_free(port):
            return port
    raise ServerError(f"no port of 127.0.0.1 between {FIRST_PORT} and {LAST_PORT} is free: stop some other servers")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def keep_secret(path: Path, *, n_bytes: int = 32) -> str:
    """Return the secret in the file; make both if there is none. Its letters need no quoting in an URL or a shell."""
    if not path.exists():
        write_private(path, f"{secrets.token_urlsafe(n_bytes)}\n")
    return path.read_text(encoding="utf-8").strip()


def hold_lock(path: Path) -> int | None:
    """Lock a file for as long as this process lives. Return its descriptor, or None if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def can_reach(path: Path, uid: int, gid: int) -> bool:
    """Say whether an account may walk down to the path, by the modes of all folders above it."""
    for folder in path.resolve().parents:
        info = folder.stat()
        shift = 6 if info.st_uid == uid else 3 if info.st_gid == gid else 0
        if not (info.st_mode >> shift) & stat.S_IXOTH:
            return False
    return True


def processes_in(folder: Path, names: Collection[str]) -> list[int]:
    """Return the processes of these names whose working folder this is: what a killed supervisor left running there.

    A pid file would do until the machine restarts and another process gets its number; a working folder does not lie.
    Without /proc (macOS) nothing is found, and the server itself refuses to start beside another.
    """
    found: list[int] = []
    if not folder.exists():
        return found
    wanted = folder.stat()
    for pid in _numbers_in_proc():
        # Some end while we look, some belong to somebody else.
        with contextlib.suppress(OSError):
            name = Path("/proc", str(pid), "comm").read_text().strip()
            if name in names and os.path.samestat(os.stat(f"/proc/{pid}/cwd"), wanted):
                found.append(pid)
    return found


def parent_of(pid: int) -> int | None:
    """Return the parent of a process, or None if the process has ended."""
    try:
        # The name stands in brackets and may itself hold spaces and brackets.
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def end_session(leader: int) -> None:
    """Kill what is left of the session that a process began: also children that made a group of their own."""
    for pid in _numbers_in_proc():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def can_see_processes() -> bool:
    """Say whether the system shows us its processes as files, as Linux does and macOS does not."""
    return Path("/proc/self/cwd").exists()


def _numbers_in_proc() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()] if can_see_processes() else []


def die_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """Return what a child calls just before its program, so that the kernel sends it this signal when we die.

    So even a SIGKILL of the parent leaves no server. The kernel goes by the *thread* that made the child: from any
    other thread than the main one this is off, or the child would be stopped when that thread ends.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    # Looked up before the fork: after it, only plain calls are safe. PyDLL keeps the interpreter's lock meanwhile.
    prctl, parent = ctypes.PyDLL(None).prctl, os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel


def spawn(argv: Sequence[str | Path], *, when_parent_dies: signal.Signals, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C in our terminal reaches only us."""
    return subprocess.Popen(  # noqa: S603 - the programs are our own, and no shell reads their arguments
        argv,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        start_new_session=True,
        preexec_fn=die_with_parent(when_parent_dies),
        **options,
    )
