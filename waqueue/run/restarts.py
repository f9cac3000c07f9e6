"""Keeps a part of the run alive: what ends is started again, after a pause that grows while it keeps ending."""

import time
from typing import Protocol

from waqueue.embedded import ServerError

from .configuration import RunError
from .console import Console

STEADY_AFTER_S = 60
LONGEST_PAUSE_S = 30
SERVER_TRIES = 5


class Part(Protocol):
    """A server, the web server or the worker."""

    @property
    def title(self) -> str:
        """What to call it in a sentence."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """Stop it and return when it has ended."""

    def is_running(self) -> bool:
        """Say whether it lives."""


class Keeper:
    """Watches one part.

    A server that died is started again like everything else: its address and data stay the same, and waqueue is made
    to outlive the loss of either store. One that cannot be started several times in a row ends the run: then something
    is wrong that waiting does not mend, and a message accepted meanwhile would only wait.
    """

    def __init__(self, part: Part, console: Console) -> None:
        self.part = part
        self._console = console
        self._failures = 0
        self._started_at = time.monotonic()
        self._retry_at: float | None = None

    def look(self, now: float) -> None:
        """Notice that the part has ended, or start it again when its pause is over."""
        if self.part.is_running():
            if now - self._started_at > STEADY_AFTER_S:
                self._failures = 0
        elif self._retry_at is None:
            self._failures += 1
            pause = min(2 ** (self._failures - 1), LONGEST_PAUSE_S)
            self._retry_at = now + pause
            self._console.say(f"{self.part.title} has ended: starting it again in {pause} s.")
        elif now >= self._retry_at:
            self._retry_at = None
            self._started_at = now
            self._start()

    def _start(self) -> None:
        try:
            self.part.start()
            self._console.say(f"{self.part.title} was started again.")
        except ServerError as error:
            if self._failures >= SERVER_TRIES:
                raise RunError(f"{self.part.title} cannot be started again: {error}") from error
            self._console.say(f"{error}.")
