"""A thread of the soak: what it dies of is remembered, since one that is dead has nothing more to complain of."""

import threading
import traceback
from collections.abc import Callable


class Hand(threading.Thread):
    """Works until it is done, and does not keep the process from ending."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        # What went wrong, as lines.
        self.wrong: list[str] = []
        self._work = work

    def run(self) -> None:
        """Do the work."""
        try:
            self._work()
        except Exception:  # whatever it is, it was not foreseen
            self.wrong.append(f"{self.name} died: {traceback.format_exc()}")
