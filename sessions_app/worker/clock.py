"""The worker's own clock: it goes on while the process or the whole machine is stopped."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some fixed moment. A process that was frozen sees how long."""
    return time.clock_gettime(_CLOCK)
