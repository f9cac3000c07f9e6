"""The queue of one session mended in place, by its rows."""

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import TypeVar

import redis

from sessions_app.models import OPEN, Message, Session
from sessions_app.queues import mirror
from sessions_app.reconciliation import long_queues

_CHUNK = 500

T = TypeVar("T")

log = logging.getLogger(__name__)


def mend(session: Session, client: redis.Redis) -> None:
    """Put the jobs that the session's queue lacks, each at its place, and take out those of settled messages.

    A job without a row stays where it is, and so does a key that is no list. Raises QueueUnavailable, OtherDeployment
    and database errors.
    """
    jobs = mirror.job_ids(session.name, client=client)
    if jobs is None:
        log.warning("the key of the queue of %s is no list: it is left alone, and the session has no mirror", session)
        return
    # Of a long queue, its ids are all that is held: the line goes by in parts.
    there = set(jobs)
    del jobs
    within, behind = _missing(session, there)
    # From the back within: whom a job stands before is there already then.
    _put(session, [*((pk, "") for pk in behind), *reversed(within)], client)
    _take_out_settled(session, there, client)


def _missing(session: Session, there: set[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The open messages without a job: those within the queue, each with the one before which it stands, and those
    behind all that is in it. What has a job is taken out of `there`."""
    within: list[tuple[str, str]] = []
    run: list[str] = []
    for part in long_queues.lines(session):
        for job, _ in part:
            pk = job.decode()
            if pk not in there:
                run.append(pk)
                continue
            there.discard(pk)
            within += zip(run, [*run[1:], pk], strict=False)
            run = []
    return within, run


def _put(session: Session, missing: Sequence[tuple[str, str]], client: redis.Redis) -> None:
    for chunk in _chunks(missing):
        rows = Message.objects.open().in_bulk([pk for pk, _ in chunk])
        entries = [mirror.Entry(rows[uuid.UUID(pk)], before) for pk, before in chunk if uuid.UUID(pk) in rows]
        mirror.put(session.name, entries, recheck=True, client=client)


def _take_out_settled(session: Session, strangers: set[str], client: redis.Redis) -> None:
    for chunk in _chunks([pk for pk in strangers if _is_id(pk)]):
        settled = Message.objects.filter(session=session, pk__in=chunk).exclude(status__in=OPEN)
        mirror.take_out(session.name, list(settled.values_list("pk", flat=True)), client=client)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
