"""The soak's own engine, processes and logs: what they tell has to be so, or the soak's count means nothing."""

import http.client
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.processes import Process, catches, wait_until
from tests.soak import logs
from tests.soak.engine import Engine
from tests.soak.facts import Answer, Entry
from tests.soak.life import Life
from tests.soak.person import Person
from tests.soak.traffic import Traffic


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Return an engine with one session."""
    made = Engine(seed=1)
    made.start(["s"])
    yield made
    made.stop()


def hand_over(engine: Engine, text: str) -> http.client.HTTPConnection:
    """Hand over a message; its answer is still to be read."""
    connection = http.client.HTTPConnection(engine.url.removeprefix("http://"), timeout=10)
    body = json.dumps({"session": "s", "chatId": "51930246633@c.us", "text": text})
    connection.request("POST", "/api/sendText", body, {"Content-Type": "application/json"})
    return connection


def entry(engine: Engine, text: str) -> Entry:
    return wait_until(lambda: next((each for each in engine.entries if each.text == text), None), 10, f"{text} arrives")


def test_a_flight_ends_when_the_other_side_hangs_up_and_the_engine_keeps_what_it_took(engine: Engine) -> None:
    engine.hanging.add("s")
    first = hand_over(engine, "first")
    hung = entry(engine, "first")
    wait_until(lambda: hung.accepted, 10, "it is taken")
    assert hung.ended_at is None
    first.close()
    second = hand_over(engine, "second")
    later = entry(engine, "second")
    assert hung.ended_at is not None and hung.ended_at <= later.arrived_at
    assert hung.answer == Answer.UNCLEAR
    assert engine.has_accepted("first")
    second.close()


def test_a_session_that_is_not_connected_takes_nothing_and_says_so(engine: Engine) -> None:
    engine.disconnect(["s"])
    connection = hand_over(engine, "text")
    assert connection.getresponse().status == 422
    connection.close()
    wait_until(lambda: entry(engine, "text").ended_at, 10, "the flight is over")
    assert entry(engine, "text").answer == Answer.REFUSED
    assert not engine.has_accepted("text")


def test_what_meets_a_message_depends_on_the_seed_and_its_text_alone(engine: Engine) -> None:
    other = Engine(seed=1)
    other.start(["s"])
    try:
        # Quick ones only differ in how quick; whatever is met is the same twice.
        for text in map(str, range(40)):
            for each in (engine, other):
                connection = hand_over(each, text)
                wait_until(lambda each=each, text=text: entry(each, text).said, 10, "its mood is known")
                connection.close()
            assert entry(engine, text).said == entry(other, text).said
        assert len({each.said for each in engine.entries}) > 1
    finally:
        other.stop()


def life(folder: Path, program: str) -> Life:
    return Life(Process([sys.executable, "-c", program], {}, folder / "worker-0.log"))


_WAITS = "import signal; signal.sigwait([signal.SIGUSR1])"
_LEAVES = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); signal.pause()"


def ended(one: Life) -> Life:
    wait_until(lambda: not one.is_running(), 10, "it ends")
    return one


def listening(one: Life) -> Life:
    wait_until(lambda: catches(one.process.pid, signal.SIGTERM), 10, "it listens to signals")
    return one


def test_a_process_that_ends_by_itself_is_told_with_its_code_and_last_lines_also_if_it_is_started_again(
    tmp_path: Path,
) -> None:
    one = life(tmp_path, "import sys; print('the last word'); sys.exit(3)")
    for count in (1, 2):
        one.start()
        ended(one).start()
        assert len(one.wrong) == 2 * count - 1
        assert "worker-0.log: ended by itself with 3" in one.wrong[-1]
        assert "the last word" in one.wrong[-1]
        ended(one).look()
        assert len(one.wrong) == 2 * count


@pytest.mark.parametrize("end", [Life.kill, Life.ask_to_leave])
def test_a_process_that_had_ended_before_somebody_ended_it_has_ended_by_itself(
    tmp_path: Path, end: Callable[[Life], None]
) -> None:
    one = life(tmp_path, "pass")
    one.start()
    end(ended(one))
    one.look()
    assert len(one.wrong) == 1
    assert "ended by itself with 0" in one.wrong[0]


def test_one_that_was_killed_or_left_in_order_when_asked_is_in_order_and_one_that_left_otherwise_is_not(
    tmp_path: Path,
) -> None:
    killed = life(tmp_path, _WAITS)
    for _ in range(2):
        killed.start()
        killed.kill()
    assert killed.wrong == []
    for code, wrong in ((0, 0), (1, 1)):
        leaving = life(tmp_path, _LEAVES.format(code=code))
        leaving.start()
        listening(leaving).ask_to_leave()
        ended(leaving).look()
        assert len(leaving.wrong) == wrong
    assert "asked to leave, with 1" in leaving.wrong[0]
    # By the system, for want of memory.
    killed.start()
    killed.process.send(signal.SIGKILL)
    ended(killed).kill()
    assert "ended by itself with -9" in killed.wrong[0]


def test_one_that_was_asked_to_leave_at_its_birth_may_die_of_it(tmp_path: Path) -> None:
    one = life(tmp_path, _WAITS)
    one.start()
    one.ask_to_leave()
    ended(one).look()
    assert one.wrong == []


def test_faults_in_the_logs_are_told_and_outages_are_not(tmp_path: Path) -> None:
    at = "2026-11-30T15:40:01.1Z"
    (tmp_path / "worker-0.log").write_text(
        f"{at} [warning  ] claiming waits and tries again: it is gone [sessions_app.worker.backoff]\n"
    )
    (tmp_path / "web.log").write_text(
        f"{at} [error    ] a request was refused, since PostgreSQL cannot be reached: gone [sessions_app.api]\n"
        f"{at} [error    ] request_finished [django_structlog.middlewares.request] code=503 request='GET /whatsapp'\n"
        "[2026-11-30 15:38:46 +0000] [15211] [INFO] Booting worker with pid: 15212\n"
    )
    assert logs.faults(tmp_path) == []
    with (tmp_path / "worker-0.log").open("a") as worker, (tmp_path / "web.log").open("a") as web:
        worker.write(f"{at} [error    ] the heartbeat failed, and is tried again [sessions_app.worker.upkeep]\n")
        try:
            raise ValueError("a fault")
        except ValueError:
            traceback.print_exc(file=worker)
        web.write(
            f"{at} [error    ] request_finished [django_structlog.middlewares.request] code=500 request='GET /'\n"
            "[2026-11-30 15:38:46 +0000] [15211] [ERROR] Worker (pid:15212) exited with code 3.\n"
        )
    told = logs.faults(tmp_path)
    assert [line.partition(",")[0] for line in told] == [
        "worker-0.log: 1 tracebacks", "worker-0.log: 1 errors", "web.log: 1 answers with 500",
        "web.log: 1 ends of web processes",
    ]  # fmt: skip
    assert "ValueError: a fault" in told[0]
    assert "the heartbeat failed" in told[1]


def test_a_client_or_a_person_that_dies_is_told_with_what_it_died_of() -> None:
    web = MagicMock()
    web.call.side_effect = ValueError("a fault of the soak")
    traffic, person = Traffic(web, ["s"], seed=1), Person(web, MagicMock(), {"s": "hold"}, seed=1)
    traffic.start()
    person.start()
    wait_until(lambda: web.call.call_count >= 2, 10, "both have asked")
    told = traffic.stop(10) + person.stop()
    assert [line.partition(":")[0] for line in told] == ["client 0 died", "person died"]
    assert all("ValueError: a fault of the soak" in line for line in told)
