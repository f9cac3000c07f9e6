"""A suspect is tried alone, in a child process: what comes of it, and what is not its fault."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from sessions_app.models import Attempt, LoopbackEntry, Message, OnUncertain, Status
from sessions_app.services import messages, sessions
from sessions_app.worker import clock, suspects, trial
from sessions_app.worker.outcomes import Flight, Settlement
from sessions_app.worker.settle import settle
from sessions_app.worker.suspects import Suspects
from tests.dispatch_lab import ACTOR, LabWorker, in_thread, session_with, workers
from tests.processes import descendants, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.fault(23)]

# A child that dies of whatever it is asked.
LETHAL = f"import sys; sys.stdout.write({trial.READY!r}); sys.stdout.flush(); sys.stdin.readline(); sys.exit(1)"


@pytest.fixture(autouse=True)
def children_on_the_tests_database(monkeypatch: pytest.MonkeyPatch) -> None:
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    monkeypatch.setenv("DATABASE_URL", database.geturl())


def suspect(*texts: str, name: str = "s", deaths: int = 1, **options: Any) -> Message:
    """The first of a session's messages, after so many deaths."""
    _, submitted = session_with(*texts or ("one",), name=name, **options)
    Message.objects.filter(pk=submitted[0].pk).update(deaths=deaths)
    return submitted[0]


def with_suspects(act: Callable[[Suspects, LabWorker], Coroutine[Any, Any, Any]]) -> Any:
    """Run `act` with the suspects of a worker; fail if it leaves a process behind."""

    async def run() -> Any:
        mine = Suspects()
        async with workers(1) as (worker,):
            try:
                return await act(mine, worker)
            finally:
                await mine.close()

    result = asyncio.run(run())
    assert not [pid for pid in descendants(os.getpid()) if trial.PROGRAM.encode() in command_of(pid)]
    return result


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def fenced(worker: LabWorker, *names: str) -> list[Flight]:
    return sorted((await worker.fence(*names or ("s",))).flights, key=lambda flight: flight.session_id)


def try_once() -> Settlement:
    """Fence the message of the session `s`, try it alone, and write what came of it."""

    async def act(mine: Suspects, worker: LabWorker) -> Settlement:
        (flight,) = await fenced(worker)
        settlement = await mine.send(flight)
        await settle(worker.connection, [settlement])
        return settlement

    settlement: Settlement = with_suspects(act)
    return settlement


def test_who_comes_through_alone_is_sent_and_no_suspect_any_more() -> None:
    message = suspect("ñ 👋", deaths=2)
    settlement = try_once()
    assert settlement.provider_id == f"loopback-{settlement.flight.token}"
    message.refresh_from_db()
    assert (message.status, message.deaths, message.attempts) == (Status.SENT, 0, 1)


def test_it_is_handed_over_with_the_same_content_as_any_other() -> None:
    session, _ = session_with()
    for deaths in (0, 1):
        draft = messages.Draft(
            to="+51930246633", type="template", client_ref="ref",
            template={"name": "n", "language": "es", "components": [{"type": "body", "empty": None}]},
        )  # fmt: skip
        (message,) = messages.submit(session, [draft])
        Message.objects.filter(pk=message.pk).update(deaths=deaths)

    async def act(mine: Suspects, worker: LabWorker) -> Any:
        (plain,) = await fenced(worker)
        await settle(worker.connection, [trial.answered(plain, json.dumps(SENT).encode())])
        (suspected,) = await fenced(worker)
        assert suspected.content == {}
        await mine.send(suspected)
        return plain.content

    assert LoopbackEntry.objects.count() == 0
    content = with_suspects(act)
    assert LoopbackEntry.objects.get().content == content


SENT = dict.fromkeys(trial._SETTLEMENT, "") | {
    "outcome": "sent", "status": "sent", "retry_ms": 0, "refund": 0, "resend": 0, "is_paced": True, "death": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("deaths", "policy", "status", "error_class", "event"),
    [
        (1, OnUncertain.RESEND, Status.QUEUED, "uncertain", "message.resent"),
        (1, OnUncertain.HOLD, Status.UNCERTAIN, "uncertain", "message.uncertain"),
        (2, OnUncertain.RESEND, Status.UNCERTAIN, "poison", "message.poison"),
        (2, OnUncertain.HOLD, Status.UNCERTAIN, "poison", "message.poison"),
        (7, OnUncertain.RESEND, Status.UNCERTAIN, "poison", "message.poison"),
    ],
)
def test_who_kills_the_child_dies_once_more_and_is_set_aside_at_the_third_time(
    monkeypatch: pytest.MonkeyPatch, deaths: int, policy: str, status: str, error_class: str, event: str
) -> None:
    monkeypatch.setattr(trial, "PROGRAM", LETHAL)
    message = suspect("one", "two", deaths=deaths, on_uncertain=policy)
    try_once()
    message.refresh_from_db()
    assert (message.status, message.error_class, message.deaths) == (status, error_class, deaths + 1)
    assert message.events.order_by("id").last().kind == event
    assert sessions.get("s").dispatch.hold == ""


def test_a_session_that_waits_for_a_person_waits_at_a_poison_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PROGRAM", LETHAL)
    suspect(deaths=2, on_uncertain=OnUncertain.HOLD_SESSION)
    try_once()
    assert sessions.get("s").dispatch.hold == "uncertain"


def test_after_a_death_the_next_one_gets_a_child_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    was_there = tmp_path / "was-there"
    monkeypatch.setattr(
        trial, "PROGRAM",
        f"import pathlib; been = pathlib.Path({str(was_there)!r}).exists()\n"
        f"pathlib.Path({str(was_there)!r}).touch()\n"
        f"exec({trial.PROGRAM!r} if been else {LETHAL!r})",
    )  # fmt: skip
    suspect(name="a")
    suspect(name="b")

    async def act(mine: Suspects, worker: LabWorker) -> list[Settlement]:
        return [await mine.send(flight) for flight in await fenced(worker, "a", "b")]

    first, second = with_suspects(act)
    assert (first.death, second.death, second.status) == (1, 0, Status.SENT)


# What is not its fault


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('no')", "no python"])
def test_a_child_that_cannot_start_blames_nobody(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(trial, "PROGRAM", program)
    message = suspect()
    settlement = try_once()
    assert settlement.retry_ms > 0
    message.refresh_from_db()
    assert (message.status, message.deaths, message.attempts) == (Status.QUEUED, 1, 0)
    assert Attempt.objects.get().outcome == "returned"


def test_a_child_that_is_late_blames_nobody_and_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message = suspect()
    # As when the worker stood still while it started.
    monkeypatch.setattr(suspects, "_START_SECONDS", 0)
    assert try_once().outcome == "returned"
    message.refresh_from_db()
    assert (message.status, message.deaths) == (Status.QUEUED, 1)
    (said,) = [record for record in caplog.records if record.name == suspects.__name__]
    assert said.levelname == "WARNING" and "not ready within" in said.getMessage()


def test_a_message_that_cannot_be_read_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://waqueue:none@127.0.0.1:1/none")
    message = suspect()
    try_once()
    message.refresh_from_db()
    assert (message.status, message.deaths, message.attempts) == (Status.QUEUED, 1, 0)


def test_signals_for_the_worker_do_not_end_its_child() -> None:
    suspect("one", config={"delay_ms": 1000})

    async def act(mine: Suspects, worker: LabWorker) -> Settlement:
        (flight,) = await fenced(worker)
        sending = asyncio.create_task(mine.send(flight))
        await until(lambda: in_thread(LoopbackEntry.objects.exists), 30, "it is handed over")
        assert mine._child is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(mine._child._process.pid, number)
        return await sending

    assert with_suspects(act).status == Status.SENT


def test_a_worker_that_stops_blames_nobody_and_leaves_no_child() -> None:
    suspect("one", config={"delay_ms": 60_000}, name="a")
    suspect("one", name="b")

    async def act(mine: Suspects, worker: LabWorker) -> list[Settlement]:
        sending = [asyncio.create_task(mine.send(flight)) for flight in await fenced(worker, "a", "b")]
        await until(lambda: in_thread(LoopbackEntry.objects.exists), 30, "it is handed over")
        for one in sending:
            one.cancel()
        return [await one for one in sending]

    first, second = with_suspects(act)
    # The one may have been heard, the other was not.
    assert (first.outcome, first.death) == ("uncertain", 0)
    assert (second.outcome, second.death) == ("returned", 0)


# One at a time


def test_one_is_tried_at_a_time_and_who_finds_a_long_line_comes_back_later() -> None:
    names = [f"s{number}" for number in range(suspects._LINE + 4)]
    for name in names:
        suspect(name=name, config={"delay_ms": 100})

    async def act(mine: Suspects, worker: LabWorker) -> list[Settlement]:
        return list(await asyncio.gather(*(mine.send(flight) for flight in await fenced(worker, *names))))

    settled = with_suspects(act)
    sent = [one for one in settled if one.status == Status.SENT]
    later = [one for one in settled if one.status == Status.QUEUED]
    assert (len(sent), len(later)) == (suspects._LINE, 4) or (len(sent), len(later)) == (suspects._LINE + 1, 3)
    assert all(one.outcome == "returned" and one.retry_ms >= 1000 for one in later)
    times = list(LoopbackEntry.objects.order_by("id").values_list("created_at", flat=True))
    assert all((after - before).total_seconds() >= 0.1 for before, after in itertools.pairwise(times))


def test_who_waited_too_long_for_its_turn_comes_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_LINE_SECONDS", 0.2)
    suspect(name="a", config={"delay_ms": 1000})
    suspect(name="b")

    async def act(mine: Suspects, worker: LabWorker) -> list[Settlement]:
        return list(await asyncio.gather(*(mine.send(flight) for flight in await fenced(worker, "a", "b"))))

    assert [one.outcome for one in with_suspects(act)] == ["sent", "returned"]


def test_who_hangs_in_the_child_has_killed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(trial, "PROGRAM", LETHAL.replace("sys.exit(1)", "import time; time.sleep(600)"))
    suspect(deaths=2)

    async def act(mine: Suspects, worker: LabWorker) -> Settlement:
        (flight,) = await fenced(worker)
        flight.deadline = clock.now() + 0.2
        settlement = await mine.send(flight)
        # The next one is not to find it there.
        assert mine._child is None
        return settlement

    assert with_suspects(act).error_class == "poison"


def test_a_child_that_has_nothing_to_do_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_REST_SECONDS", 0.1)
    suspect()

    async def act(mine: Suspects, worker: LabWorker) -> None:
        (flight,) = await fenced(worker)
        assert (await mine.send(flight)).status == Status.SENT
        await until(lambda: mine._child is None, 30, "the child is gone")

    with_suspects(act)


def test_a_person_who_sends_a_poison_again_has_it_tried_alone_again() -> None:
    message = suspect(deaths=3)
    Message.objects.filter(pk=message.pk).update(status=Status.UNCERTAIN, error_class="poison")
    messages.resolve(message.pk, outcome="resend", actor=ACTOR)

    async def act(mine: Suspects, worker: LabWorker) -> Flight:
        (flight,) = await fenced(worker)
        return flight

    flight = with_suspects(act)
    assert (flight.deaths, flight.content) == (3, {})
    assert sessions.get("s").dispatch.hold == ""
