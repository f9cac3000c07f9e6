"""The queue of one session mended in place, by its rows."""

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import TypeVar

import redis

from sessions_app.models import OPEN, Message, Session
from sessions_app.queues import mirror

_CHUNK = 500

T = TypeVar("T")

log = logging.getLogger(__name__)


def mend(session: Session, client: redis.Redis) -> None:
    """Put the jobs that the session's queue lacks, each at its place, and take out those of settled messages.

    A job without a row stays where it is, and so does a key that is no list. Raises QueueUnavailable, OtherDeployment
    and database errors.
    """
    there = mirror.job_ids(session.name, client=client)
    if there is None:
        log.warning("the key of the queue of %s is no list: it is left alone, and the session has no mirror", session)
        return
    line = list(map(str, Message.objects.open().filter(session=session).in_order().values_list("pk", flat=True)))
    _put_missing(session, line, set(there), client)
    _take_out_settled(session, set(there).difference(line), client)


def _put_missing(session: Session, line: Sequence[str], there: set[str], client: redis.Redis) -> None:
    end = next((at + 1 for at in range(len(line) - 1, -1, -1) if line[at] in there), 0)
    # Behind all that is there: to be appended. From the back within: whom a job stands before is then there already.
    missing = [(pk, "") for pk in line[end:]]
    missing += [(line[at], line[at + 1]) for at in range(end - 2, -1, -1) if line[at] not in there]
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
