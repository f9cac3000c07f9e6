"""The soak's own engine and network: what they remember and break has to be so, or its count means nothing."""

import http.client
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.processes import wait_until
from tests.soak.engine import Engine
from tests.soak.facts import Answer, Entry
from tests.soak.proxy import Proxy


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Return a proxy before a server that repeats what it hears."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = Proxy(server.server_address[1])
        made.start()
        yield made
        made.close()
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_the_network_hands_on_and_slows_requests(proxy: Proxy) -> None:
    with connect(proxy) as plug:
        plug.sendall(b"quick")
        assert plug.recv(100) == b"quick"
        proxy.delay_seconds = 0.3
        begun = time.monotonic()
        plug.sendall(b"slow")
        assert plug.recv(100) == b"slow"
        assert time.monotonic() - begun >= 0.3


def test_the_network_cuts_what_is_connected_and_takes_new_connections(proxy: Proxy) -> None:
    with connect(proxy) as plug:
        plug.sendall(b"before")
        assert plug.recv(100) == b"before"
        assert proxy.cut() == 1
        assert plug.recv(100) == b""
    with connect(proxy) as plug:
        plug.sendall(b"after")
        assert plug.recv(100) == b"after"


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
