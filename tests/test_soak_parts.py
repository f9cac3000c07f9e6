"""The soak's own engine: what it remembers has to be so, or the soak's count means nothing."""

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.processes import wait_until
from tests.soak.engine import Engine
from tests.soak.facts import Answer, Entry


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
