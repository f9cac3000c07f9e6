"""Upkeep of very many messages, in a child process: it is not in the sends' way, and what it takes of memory goes."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import Error as DatabaseError
from django.db import connection

from sessions_app.exceptions import QueueUnavailable, WaqueueError, primary_message
from sessions_app.queues import inspect
from sessions_app.queues.connection import upkeep_client
from sessions_app.reconciliation.rebuild import rebuild
from sessions_app.reconciliation.run import reconcile_in_time
from sessions_app.worker import children
from sessions_app.worker.thread import Thread
from waqueue.garbage import collect_seldom

log = logging.getLogger(__name__)

# So much is done in a thread in half a second, most of which the sends wait for. A child needs longer just to start.
MANY_MESSAGES = 20_000
MANY_BYTES = 64 * 1024 * 1024
# The sends come first.
_NICE = 10

_PROGRAM = "import django; django.setup(); from sessions_app.worker.long_upkeep import main; main()"
_ACTS: dict[str, Callable[..., Any]] = {"reconcile": reconcile_in_time, "rebuild": rebuild}


# How a process ends that has said, and written down, what went wrong. Python itself ends with 1.
_HAS_SAID_WHY = os.EX_TEMPFAIL


class ChildFailed(WaqueueError):
    """The process that was to do it has died, and nobody knows of what."""

    code = "child_failed"


async def do(act: str, *arguments: str, thread: Thread) -> None:
    """Reconcile, or rebuild for a generation: in `thread`, or in a child where there is much of it.

    Raises QueueUnavailable, database errors, ChildFailed; WaqueueError where a child has said why already.
    """
    if not await thread.run(_is_much):
        await thread.run(_ACTS[act], *arguments)
        return
    child = await children.start("-c", _PROGRAM, act, *arguments)
    try:
        code = await child.wait()
    finally:
        if child.returncode is None:
            # Each of its steps is one that the next run goes on after.
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    if code == _HAS_SAID_WHY:
        raise WaqueueError("its process has said why")
    if code:
        raise ChildFailed(f"its process ended with {code}")


def main() -> None:
    """Do in this process what its arguments say; what goes wrong is logged, and seen by how it ends."""
    os.nice(_NICE)
    collect_seldom()
    act, *arguments = sys.argv[1:]
    try:
        _ACTS[act](*arguments)
    except (psycopg.Error, DatabaseError, WaqueueError) as error:
        log.warning("%s has to wait: %s", act, primary_message(error))
        sys.exit(_HAS_SAID_WHY)
    except Exception:
        log.exception("%s failed", act)
        sys.exit(_HAS_SAID_WHY)


def _is_much() -> bool:
    """Whether there are very many open messages, or much in Redis: either store may have lost what the other has."""
    try:
        if inspect.used_bytes(client=upkeep_client()) > MANY_BYTES:
            return True
    except QueueUnavailable:
        # The act itself is to find that out, and to say so.
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT FROM wa_message WHERE status IN ('queued', 'sending') LIMIT %s) open",
            [MANY_MESSAGES + 1],
        )
        return bool(cursor.fetchone()[0] > MANY_MESSAGES)
