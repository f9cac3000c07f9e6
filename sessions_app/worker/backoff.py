"""Waiting while a store is gone: longer each time, said once, over the moment it is back."""

import asyncio
import contextlib
import logging
import random

log = logging.getLogger(__name__)

_FIRST_SECONDS = 0.05
_LONGEST_SECONDS = 2.0


class Backoff:
    """The waits of one loop. `what` names the loop in the log; `stop`, where there is one, ends every wait at once."""

    def __init__(self, what: str, stop: asyncio.Event | None = None) -> None:
        self._what = what
        self._stop = stop
        self._failures = 0

    def reset(self) -> None:
        """It worked."""
        if self._failures:
            log.warning("%s works again after %d failures", self._what, self._failures)
            self._failures = 0

    async def wait(self, error: Exception) -> None:
        """Wait before the next try; the first failure and every hundredth after it are said."""
        if self._failures % 100 == 0:
            log.warning("%s waits and tries again: %s", self._what, str(error).strip() or type(error).__name__)
        self._failures += 1
        longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(self._failures, 10))
        seconds = random.uniform(longest / 2, longest)  # noqa: S311 (spreads load, guards nothing)
        if self._stop is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
