"""Real workers and a real ledger: what was handed over stands in loopback's own entries, whatever else was lost."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models.functions import Now

from sessions_app.models import InFlight, LoopbackEntry, Message, Session, Worker
from sessions_app.models.worker import STEADY
from sessions_app.services import messages, sessions
from sessions_app.services.audit import Actor
from sessions_app.services.pacing import Pacing
from tests.processes import PROJECT, Process, is_stopped, rqworker, wait_until
from waqueue.embedded import EmbeddedValkey

ACTOR = Actor("the test")
PHONE = "+51930246633"
# What has its time goes within a second or two of it. Whoever was forgotten is found after ten seconds at the earliest.
LATE = timedelta(seconds=8)


def seconds_between(times: Iterable[datetime]) -> list[float]:
    """How long it was from each to the next."""
    return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]


class Stack:
    """A waqueue under test. Messages are numbered, so that the ledger shows what is missing, doubled or overtaken."""

    def __init__(self, redis: EmbeddedValkey, environ: dict[str, str], process: Callable[..., Process]) -> None:
        self.redis = redis
        self.environ = environ
        self._process = process

    def worker(self, *arguments: str, **environ: str) -> Process:
        """Start a worker as operators do."""
        return self._process(rqworker, self.environ | environ, *arguments)

    def ready_worker(self, *arguments: str, **environ: str) -> Process:
        """Start a worker and wait until it beats."""
        before = Worker.objects.count()
        worker = self.worker(*arguments, **environ)
        wait_until(lambda: Worker.objects.count() > before, 30, "the worker registers")
        return worker

    def judge(self, **environ: str) -> Process:
        """Start a worker that may judge others at once, as one that has been beating for long."""
        worker = self.ready_worker(**environ)
        Worker.objects.filter(pid=worker.pid).update(steady_since=Now() - STEADY)
        return worker

    def crash(self, at: str, **environ: str) -> None:
        """Have a worker die at a crash point."""
        assert self.worker(WAQUEUE_TEST_CRASH_AT=at, **environ).wait(60) == -signal.SIGKILL

    def freeze(self, at: str, **environ: str) -> Process:
        """Have a worker stop at a crash point; it goes on when it is sent SIGCONT."""
        worker = self.worker(WAQUEUE_TEST_CRASH_AT=at, WAQUEUE_TEST_CRASH_BY="SIGSTOP", **environ)
        wait_until(lambda: is_stopped(worker.pid), 60, f"the worker stops at {at!r}")
        return worker

    def session(self, name: str, **options: Any) -> Session:
        """Make a session; `delay_ms`, `fail_rate` and `fail_as` go to loopback."""
        config = {key: options.pop(key) for key in ("delay_ms", "fail_rate", "fail_as") if key in options}
        return sessions.create(name=name, config=config, actor=ACTOR, **options)[0]

    def submit(self, session: Session, numbers: Iterable[int], *, to: str = PHONE, **fields: Any) -> list[Message]:
        """Submit messages whose text is their number."""
        drafts = [messages.Draft(to=to, text=str(number), **fields) for number in numbers]
        return messages.submit(session, drafts)

    def hush(self, session: Session, seconds: float) -> datetime:
        """Have a paused session go on, but silent for so many seconds from now; return when that is over."""
        now = self.now().astimezone(UTC)
        ends_at = now + timedelta(seconds=seconds)
        hours = Pacing(quiet_start=(now - timedelta(hours=1)).time(), quiet_end=ends_at.time(), quiet_tz="UTC")
        sessions.update(session, pacing=hours, desired_state="active", actor=ACTOR)
        assert self.now() < ends_at, "the silence was over before it began"
        return ends_at

    def count(self, *statuses: str) -> int:
        """How many messages are in one of these states."""
        return Message.objects.filter(status__in=statuses).count()

    def wait_for(self, count: int, *statuses: str, within_s: float) -> None:
        """Wait until so many messages are in one of these states."""
        wait_until(lambda: self.count(*statuses) >= count, within_s, f"{count} messages are {' or '.join(statuses)}")

    def ledger(self, session: Session | str) -> list[int]:
        """The numbers that a session handed over, in order."""
        entries = LoopbackEntry.objects.filter(session_name=str(session)).order_by("id")
        return [int(entry.content["text"]) for entry in entries]

    def handed_over_at(self, session: Session | str) -> list[datetime]:
        """When each of a session's messages was handed over, by PostgreSQL's clock, in order."""
        entries = LoopbackEntry.objects.filter(session_name=str(session)).order_by("id")
        return list(entries.values_list("created_at", flat=True))

    def gaps(self, session: Session | str) -> list[float]:
        """The seconds between a session's hand-overs."""
        return seconds_between(self.handed_over_at(session))

    def in_flight(self, sessions: Iterable[Session]) -> set[int]:
        """The attempts of these sessions that loopback has and has not answered."""
        tokens = InFlight.objects.filter(session__in=list(sessions)).values_list("token", flat=True)
        return set(LoopbackEntry.objects.filter(token__in=list(tokens)).values_list("token", flat=True))

    def workers_listed(self) -> int:
        """How many workers an unmodified rq knows."""
        command = [sys.executable, "-m", "rq.cli", "info", "--url", self.redis.url]
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout
        return int(out.partition(" workers")[0].rpartition("\n")[2])

    def now(self) -> datetime:
        """What time it is by PostgreSQL's clock."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            row: tuple[datetime] = cursor.fetchone()
        return row[0]

    def assert_in_order_and_once(self, session: Session | str, count: int) -> None:
        """Fail unless 0 to `count` - 1 were each handed over once, in order."""
        assert self.ledger(session) == list(range(count))

    def assert_in_order_so_far(self, session: Session | str) -> None:
        """Fail unless what was handed over until now was so once each, in order; more may follow meanwhile."""
        handed_over = self.ledger(session)
        assert handed_over == list(range(len(handed_over)))

    def assert_in_order_and_only_the_uncertain_missing(self, session: Session | str, count: int) -> None:
        """Fail unless each of 0 to `count` - 1 was handed over once, in order, or is uncertain and was not."""
        ledger = self.ledger(session)
        assert ledger == sorted(set(ledger))
        uncertain = Message.objects.filter(session__name=str(session), status="uncertain").values_list(
            "text", flat=True
        )
        assert set(range(count)) - set(ledger) <= {int(text) for text in uncertain}

    def assert_never_two_at_once(self, session: Session | str, delay_ms: int) -> None:
        """Fail if a hand-over began before the one before it can have been answered."""
        gaps = self.gaps(session)
        assert all(gap >= delay_ms / 1000 for gap in gaps), min(gaps)

    def cut_database_connections(self) -> None:
        """End every connection to PostgreSQL but this process's own."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
