"""The reconciliation that a start begins: in the background, once however many processes start, never in their way."""

import logging
import os
import threading
import time
from datetime import UTC, datetime

from django.db import Error as DatabaseError
from django.db import connections

from sessions_app.exceptions import QueueUnavailable
from sessions_app.models import Trigger
from sessions_app.reconciliation.run import AlreadyRunning, reconcile

log = logging.getLogger(__name__)

# While a store is not there yet it is asked again, for so long; after that the worker's timer is left to find things.
_TRIES = 120
_PAUSE_SECONDS = 1.0
# What a process does to be ready comes first: it would wait for half of a run's time.
_AFTER_START_SECONDS = 0.5


def begin() -> None:
    """Begin in a thread of its own, which ends with the process."""
    threading.Thread(target=_run, args=(_created_at(),), name="reconciliation", daemon=True).start()


def _run(created_at: datetime) -> None:
    said = False
    time.sleep(_AFTER_START_SECONDS)
    for _ in range(_TRIES):
        try:
            if reconcile(Trigger.STARTUP, unless_started_after=created_at) is None:
                log.info("another process has done the start-up reconciliation")
            return
        except AlreadyRunning:
            # Whoever runs may have begun before this process was there: see whether it was a start-up run, later.
            pass
        except (QueueUnavailable, DatabaseError) as error:
            if not said:
                log.warning("the start-up reconciliation waits: %s", str(error).strip())
                said = True
        except Exception:
            # Whatever it is, it must not take the process with it.
            log.exception("the start-up reconciliation failed")
            return
        finally:
            connections.close_all()
        time.sleep(_PAUSE_SECONDS)


def _created_at() -> datetime:
    """When this process was created, as far as the system says; else now."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
            # The 22nd field counts clock ticks since boot; the second one may hold spaces and ends with a parenthesis.
            ticks = float(stat.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _ticks_per_second()
        return datetime.fromtimestamp(time.time() - age, UTC)
    except (OSError, ValueError, IndexError, AttributeError):
        return datetime.now(UTC)


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")
