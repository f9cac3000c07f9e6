"""The one place where a run waits: for lines of its processes, for signals, or for time to pass."""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import IO, Self

from .console import Console

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):
    """Somebody asked the run to end."""


class Loop:
    """Waits in one thread: a process that is made by another thread would be ended with that thread.

    `stops` counts the signals that asked to end. Until `begin_stop` the first of them raises StopRequested from
    whatever waits; afterwards waiting goes on, and who stops things looks at `is_hurried`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._selector = selectors.DefaultSelector()
        self._is_stopping = False
        self._stops = 0

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            # Under nohup a terminal that closes is nothing to us.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()

    def begin_stop(self) -> None:
        """From now on signals hurry instead of interrupting."""
        self._is_stopping = True

    @property
    def is_hurried(self) -> bool:
        """Whether a second signal came."""
        return self._stops > 1

    def follow(self, name: str, stream: IO[bytes], on_line: Callable[[str], None] | None = None) -> None:
        """Write each line of the stream to the console under this name, or give it to `on_line`."""
        os.set_blocking(stream.fileno(), False)
        lines = _Lines(stream, on_line or (lambda line: self.console.line(name, line)))
        self._selector.register(stream, selectors.EVENT_READ, lines)

    def wait(self, seconds: float) -> None:
        """Pass on what the processes write until the time is over or a signal came."""
        end = time.monotonic() + seconds
        seen = self._stops
        while True:
            self._raise_if_asked()
            for key, _ in self._selector.select(max(0.0, end - time.monotonic())):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 512)
                elif not key.data.read():
                    self._selector.unregister(key.fileobj)
                    key.data.close()
            if time.monotonic() >= end or self._stops != seen:
                self._raise_if_asked()
                return

    def wait_for(self, condition: Callable[[], bool], seconds: float, hurried_seconds: float | None = None) -> bool:
        """Wait until the condition holds and return whether it does. A second signal may shorten the wait."""
        begin = time.monotonic()
        while not condition():
            limit = hurried_seconds if hurried_seconds is not None and self.is_hurried else seconds
            if time.monotonic() - begin > limit:
                return False
            self.wait(0.1)
        return True

    def _raise_if_asked(self) -> None:
        if self._stops and not self._is_stopping:
            raise StopRequested

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, stream: IO[bytes], on_line: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_line = on_line
        self._rest = b""

    def read(self) -> bool:
        """Pass on the lines that are there. Return False when the stream has ended."""
        try:
            data = os.read(self._stream.fileno(), 65_536)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines.append(self._rest)
        for line in lines:
            self._on_line(line.decode("utf-8", "replace").rstrip("\r"))
        return bool(data)

    def close(self) -> None:
        """Close the stream, which tells who waits for it that all of it was read."""
        self._stream.close()
