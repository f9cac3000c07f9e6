"""A wall clock that is wrong: Python loads this at its start in a process that has this folder on its PYTHONPATH.

Everything in that process that asks for the time of day gets one that is off by WAQUEUE_TEST_CLOCK_SECONDS. Clocks that
only measure go on as they are: a wrong time of day does not change them either.
"""

import datetime as module
import os
import time
from datetime import datetime, tzinfo
from typing import Any

OFF = float(os.environ["WAQUEUE_TEST_CLOCK_SECONDS"])

_time, _time_ns, _clock_gettime = time.time, time.time_ns, time.clock_gettime


class _Kind(type(datetime)):  # type: ignore[misc]
    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, datetime)


class Shifted(datetime, metaclass=_Kind):
    """What the others know as `datetime`. The times that it makes are plain ones."""

    # Of the same size: extensions look.
    __slots__ = ()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time(), module.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time())


time.time = lambda: _time() + OFF
time.time_ns = lambda: _time_ns() + int(OFF * 1_000_000_000)
time.clock_gettime = lambda clock: _clock_gettime(clock) + (OFF if clock == time.CLOCK_REALTIME else 0)
module.datetime = Shifted  # type: ignore[misc]
