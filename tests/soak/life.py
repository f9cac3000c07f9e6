"""The life of a process of the soak: it is ended through this, so that an end that nobody asked for is seen."""

import signal

from tests.processes import Process, catches

_LAST_LINES = 8


class Life:
    """Starts a process as often as the soak wants it to run, and remembers each end that the soak did not make."""

    def __init__(self, process: Process) -> None:
        self.process = process
        # What is wrong with its ends, as lines.
        self.wrong: list[str] = []
        # Asked to leave before it listened to signals: Python had not come as far, and it served nothing.
        self.left_at_birth = False
        self._is_asked = self._is_killed = self._is_seen = True

    @property
    def name(self) -> str:
        """How it is called."""
        return self.process.log.name

    def is_running(self) -> bool:
        """Say whether it lives."""
        return self.process.is_running()

    def start(self) -> None:
        """Start it unless it runs."""
        if self.is_running():
            return
        self.look()
        self.process.start()
        self._is_asked = self._is_killed = self._is_seen = False

    def ask_to_leave(self) -> None:
        """Ask it to end in order, if it lives."""
        self.look()
        if self._is_seen:
            return
        self.left_at_birth = not catches(self.process.pid, signal.SIGTERM)
        self._is_asked = True
        # One that has just ended is still there to be signalled: nobody has waited for it.
        self.process.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.look()
        self._is_killed = True
        self.process.kill()
        self.look()

    def look(self) -> None:
        """Remember an end that has not been looked at, if it should not have come, or not like this."""
        if self._is_seen or self.is_running():
            return
        self._is_seen = True
        code = self.process.wait(0)
        may_be = {-signal.SIGKILL} if self._is_killed else set()
        if self._is_asked:
            may_be |= {0, -signal.SIGTERM} if self.left_at_birth else {0}
        if code not in may_be:
            how = "ended, asked to leave," if self._is_asked else "ended by itself"
            self.wrong.append(f"{self.name}: {how} with {code}; its last lines:{self._last_lines()}")

    def _last_lines(self) -> str:
        return "".join(f"\n      {line}" for line in self.process.output.splitlines()[-_LAST_LINES:])
