"""The network that tests break: it hands on, slows and cuts as it says, or what they prove means nothing."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.proxy import Proxy

# The two ends of a connection: the client's and the server's.
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Return a server that says nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def network(server: socket.socket) -> Iterator[Proxy]:
    """Return the way to it."""
    with Proxy("127.0.0.1", server.getsockname()[1]) as made:
        yield made


@pytest.fixture
def connect(server: socket.socket, network: Proxy) -> Iterator[Callable[[], Ends]]:
    """Return a maker of connections by that way."""
    with ExitStack() as at_the_end:

        def connect() -> Ends:
            client = at_the_end.enter_context(socket.create_connection(("127.0.0.1", network.port), timeout=10))
            end = at_the_end.enter_context(server.accept()[0])
            end.settimeout(10)
            return client, end

        yield connect


def assert_is_open(ends: Ends) -> None:
    client, server = ends
    client.sendall(b"asked")
    assert server.recv(100) == b"asked"
    server.sendall(b"answered")
    assert client.recv(100) == b"answered"


def test_it_hands_on_both_ways_and_slows_what_clients_say(network: Proxy, connect: Callable[[], Ends]) -> None:
    client, server = ends = connect()
    assert_is_open(ends)
    network.latency_s = 0.3
    begun = time.monotonic()
    client.sendall(b"slow")
    assert server.recv(100) == b"slow"
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("server_hears", [True, False])
def test_a_cut_ends_what_is_connected_for_clients_and_for_the_server_if_it_is_to_hear(
    server_hears: bool, network: Proxy, connect: Callable[[], Ends]
) -> None:
    client, server = ends = connect()
    assert_is_open(ends)
    network.cut(server_hears=server_hears)
    assert client.recv(100) == b""
    # By the time that a new connection works, the old one's end would have been heard too.
    assert_is_open(connect())
    server.setblocking(False)
    if server_hears:
        assert server.recv(100) == b""
    else:
        with pytest.raises(BlockingIOError):
            server.recv(100)
