"""Redis held against PostgreSQL: what is found, and nothing done about it.

Two looks at least a second apart: what a put, a settle or a new session is just about to put right is in only one.
"""

import time
import uuid
from collections.abc import Iterator
from typing import TypeVar

import redis
from django.conf import settings

from sessions_app.exceptions import OtherDeployment
from sessions_app.models import Deployment, FindingKind, Orphan, OrphanSource, OrphanState, Session
from sessions_app.queues import inspect, keys, lists, replacement
from sessions_app.queues.connection import upkeep_client
from sessions_app.queues.entries import printable
from sessions_app.reconciliation import older_database, stranded
from sessions_app.reconciliation.difference import Difference
from sessions_app.reconciliation.long_queues import NAMED
from sessions_app.reconciliation.mirrors import differences
from sessions_app.reconciliation.report import Report
from sessions_app.services.orphans.archiving import queue_label

T = TypeVar("T")

_SECOND_LOOK_SECONDS = 1.0
_NAMES = 500
_QUEUES = (keys.RQ_QUEUE_PREFIX + keys.QUEUE_PREFIX).encode()


def compare(report: Report, *, session_name: str | None = None, client: redis.Redis | None = None) -> None:
    """Write into `report` all that is not as PostgreSQL says. With `session_name`, only what bears that name.

    Raises QueueUnavailable and database errors.
    """
    client = client or upkeep_client()
    try:
        meta = inspect.meta(client=client)
    except OtherDeployment as error:
        report.add(FindingKind.OTHER_DEPLOYMENT, detail=error.detail)
        report.stopped = True
        return
    if older_database.is_older(meta.mark):
        report.add(FindingKind.OLDER_DATABASE, detail=f"attempts up to {meta.mark} were made in a later database")
    # All queues are written anew then, and not only those of one name.
    if session_name is None and meta.generation != Deployment.current().redis_generation:
        report.add(FindingKind.GENERATION_LOST, detail="Redis was wiped, restarted or failed over")
    first = _Look(client, session_name)
    report.leftovers = first.leftovers
    if first.is_right:
        first.notes(report)
        return
    time.sleep(_SECOND_LOOK_SECONDS)
    second = _Look(client, session_name, only=first)
    second.report(report, first)
    second.notes(report)


class _Look:
    """One look at both stores."""

    def __init__(self, client: redis.Redis, session_name: str | None, only: "_Look | None" = None) -> None:
        self._client = client
        self._session_name = session_name
        self.foreign: list[bytes] = []
        self.orphans: dict[bytes, int] = {}
        self.legacy: dict[bytes, int] = {}
        begun = Orphan.objects.unfinished()
        self.unfinished = list(begun.filter(session_name=session_name) if session_name else begun)
        self.strays: dict[bytes, int] = {}
        self.leftovers: set[bytes] = set()
        self.mirrors: dict[int, tuple[Session, Difference]] = {}
        self.empty_names: set[bytes] = set()
        self.vanished: dict[uuid.UUID, Orphan] = {}
        self.stranded: dict[int, str] = {}
        self.names: set[str] = set()
        self._look(only)

    @property
    def is_right(self) -> bool:
        """Whether nothing but notes was found."""
        return not (
            self.orphans or self.legacy or self.unfinished or self.strays or self.mirrors or self.stranded
            or self.empty_names or self.vanished
        )  # fmt: skip

    def _look(self, only: "_Look | None") -> None:
        depths = self._scan()
        # After the scan: the queue of a session that was made meanwhile is no orphan.
        sessions = list(Session.objects.alive().only("name").order_by("pk"))
        self.names = {session.name for session in sessions}
        owned = {keys.queue_key(name).encode() for name in self.names}
        self.orphans = {key: length for key, length in depths.items() if key not in owned}
        if self._session_name is None:
            self.empty_names = inspect.empty_names(owned=owned, client=self._client)
        self._vanished()
        for orphan in self.unfinished:
            if orphan.state == OrphanState.DETECTED and not lists.length(bytes(orphan.staging_key)):
                # Not renamed yet: it is the list of an archiving that was begun, not another one.
                self.orphans.pop(bytes(orphan.key), None)
                self.legacy.pop(bytes(orphan.key), None)
        for orphan in self.unfinished:
            self.strays.pop(bytes(orphan.staging_key), None)
        if only is not None:
            sessions = [session for session in sessions if session.pk in only.mirrors]
        elif self._session_name:
            sessions = [session for session in sessions if session.name == self._session_name]
        lengths = [depths.get(keys.queue_key(session.name).encode(), 0) for session in sessions]
        self.mirrors = {row.pk: (row, difference) for row, difference in differences(sessions, lengths, self._client)}
        self.stranded = {
            pk: name for pk, name in stranded.stranded_sessions(self._client) if self._session_name in (None, name)
        }

    def _scan(self) -> dict[bytes, int]:
        """Find all lists of interest in one walk through Redis; return those of sessions, with how long they are."""
        legacy = settings.WAQUEUE_LEGACY_PREFIX.encode()
        renamed = [lists.STAGING_PREFIX, lists.REPLACED_PREFIX, replacement.PREFIX]
        prefixes = [_QUEUES, *renamed, *([legacy] if legacy else [])]
        depths: dict[bytes, int] = {}
        for found in lists.scan(*prefixes, client=self._client):
            if self._session_name is None and (lists.is_staged(found.key) or lists.is_replaced(found.key)):
                self.strays[found.key] = found.length or 0
            if self._session_name is None and found.key.startswith(replacement.PREFIX):
                if found.length:
                    self.leftovers.add(found.key)
                else:
                    self.foreign.append(found.key)
            for prefix, wanted in ((_QUEUES, depths), (legacy, self.legacy)):
                if not prefix or not found.key.startswith(prefix):
                    continue
                if self._session_name not in (None, found.key.removeprefix(prefix).decode("utf-8", "replace")):
                    continue
                if found.length is None:
                    self.foreign.append(found.key)
                else:
                    wanted[found.key] = found.length
        return depths

    def _vanished(self) -> None:
        """Orphans that are left in Redis for a person, and are not there any more."""
        live = Orphan.objects.filter(state=OrphanState.DETECTED, staging_key=b"")
        if self._session_name:
            live = live.filter(session_name=self._session_name)
        for part in _parts([orphan for orphan in live if bytes(orphan.key) not in self.orphans | self.legacy]):
            lengths = inspect.lengths([bytes(orphan.key) for orphan in part], client=self._client)
            self.vanished |= {orphan.pk: orphan for orphan, length in zip(part, lengths, strict=True) if not length}

    def _kind_of(self, unfinished: Orphan) -> FindingKind:
        if unfinished.source == OrphanSource.LEGACY:
            return FindingKind.LEGACY_QUEUE
        # A session that takes over what it finds under its name has begun it, and is there.
        return FindingKind.LEFTOVER_LIST if unfinished.session_name in self.names else FindingKind.ORPHAN_QUEUE

    def notes(self, report: Report) -> None:
        """What is only said."""
        # A scan may meet a key twice.
        for key in sorted(set(self.foreign)):
            report.add(
                FindingKind.FOREIGN_KEY, queue=queue_label(key), session=_any_name_of(key), detail="no list: left alone"
            )

    def report(self, report: Report, first: "_Look") -> None:
        """What was there in both looks."""
        begun = {orphan.pk for orphan in first.unfinished}
        for orphan in self.unfinished:
            if orphan.pk not in begun:
                # Whoever has begun it a moment ago is at it.
                continue
            report.add(
                self._kind_of(orphan), queue=orphan.queue, session=orphan.session_name, messages=orphan.messages,
                key=bytes(orphan.staging_key), detail="an archiving that was begun",
            )  # fmt: skip
        for key in self.strays.keys() & first.strays.keys():
            report.add(
                FindingKind.LEFTOVER_LIST, queue=queue_label(lists.original_of(key)), messages=self.strays[key],
                session=_any_name_of(lists.original_of(key)), key=key, detail="a renamed list that no row knows",
            )  # fmt: skip
        for key in sorted(self.orphans.keys() & first.orphans.keys()):
            report.add(
                FindingKind.ORPHAN_QUEUE, queue=queue_label(key), session=_name_of(key), messages=self.orphans[key],
                key=key,
            )  # fmt: skip
        for key in sorted(self.legacy.keys() & first.legacy.keys()):
            report.add(
                FindingKind.LEGACY_QUEUE, queue=queue_label(key), session=_legacy_name_of(key),
                messages=self.legacy[key], key=key,
            )  # fmt: skip
        for pk in self.mirrors.keys() & first.mirrors.keys():
            row, later = self.mirrors[pk]
            _report_mirror(report, row, first.mirrors[pk][1].both(later))
        for pk in self.stranded.keys() & first.stranded.keys():
            report.add(
                FindingKind.STRANDED_SESSION, queue=keys.queue_name(self.stranded[pk]), session=self.stranded[pk],
                row=Session(pk=pk, name=self.stranded[pk]),
            )  # fmt: skip
        for key in self.empty_names & first.empty_names:
            report.add(FindingKind.EMPTY_NAME, queue=queue_label(key), key=key)
        for orphan_id in self.vanished.keys() & first.vanished.keys():
            orphan = self.vanished[orphan_id]
            report.add(
                FindingKind.VANISHED_ORPHAN, queue=orphan.queue, session=orphan.session_name,
                messages=orphan.messages, orphan=orphan, detail=f"orphan {orphan.pk}",
            )  # fmt: skip


def _report_mirror(report: Report, row: Session, difference: Difference) -> None:
    for kind, jobs in (
        (FindingKind.MISSING_JOB, difference.missing),
        (FindingKind.FINAL_JOB, difference.final),
        (FindingKind.UNKNOWN_JOB, difference.unknown),
        (FindingKind.DUPLICATE_JOB, difference.duplicate),
        (FindingKind.MISSING_HASH, difference.without_hash),
    ):
        if jobs:
            report.add(
                kind, queue=row.queue_name, session=row.name, messages=len(jobs), row=row,
                # No more are named of a long queue.
                detail="or more" if len(jobs) >= NAMED else "",
            )  # fmt: skip
    if difference.is_misordered:
        report.add(FindingKind.WRONG_ORDER, queue=row.queue_name, session=row.name, row=row)


def _any_name_of(key: bytes) -> str:
    return _name_of(key) if key.startswith(_QUEUES) else _legacy_name_of(key)


def _name_of(key: bytes) -> str:
    return printable(key.removeprefix(_QUEUES))


def _legacy_name_of(key: bytes) -> str:
    return printable(key.removeprefix(settings.WAQUEUE_LEGACY_PREFIX.encode()))


def _parts(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), _NAMES):
        yield items[start : start + _NAMES]
