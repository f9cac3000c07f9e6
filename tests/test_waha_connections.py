"""The way to a WAHA: connections that break, engines that cannot be reached, many at once, and what rests too long."""

import asyncio
import datetime
import ipaddress
import itertools
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_django import Settings

from sessions_app.exceptions import NotConnected, OutcomeUnknown, SessionRefused
from sessions_app.transports import http
from sessions_app.transports.waha import WahaTransport
from tests import waha_stub
from tests.processes import find_free_port, until
from tests.waha_lab import failure, outgoing, send, with_waha
from tests.waha_stub import WahaStub, answering

# Connections that break


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (waha_stub.resetting_unread, "broke before"),
        (waha_stub.resetting, "broke before"),
        (waha_stub.closing, "broke before"),
        (waha_stub.writing(b"SMTP ready\r\n\r\n"), "not HTTP"),
        (waha_stub.writing(b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"), "broke off"),
        (waha_stub.writing(b"HTTP/1.1 201 Cre"), "broke before"),
    ],
)
def test_a_connection_that_breaks_after_the_request_is_uncertain(
    stub: WahaStub, behaviour: waha_stub.Behaviour, words: str
) -> None:
    stub.on_send = behaviour
    error = failure(outgoing(stub))
    assert type(error) is OutcomeUnknown
    assert words in error.detail
    assert len(stub.paths) == 1, "it was sent again"


@pytest.mark.fault(20)
def test_an_answer_that_does_not_come_is_uncertain(stub: WahaStub, settings: Any) -> None:
    settings.WAQUEUE_SEND_SECONDS = 1
    stub.on_send = waha_stub.silent
    error = failure(outgoing(stub))
    assert type(error) is OutcomeUnknown and "did not answer in time" in error.detail
    assert len(stub.accepted) == 1


@pytest.mark.fault(35)
@pytest.mark.parametrize("drips", [waha_stub.dripping, waha_stub.dripping_head])
def test_an_answer_that_comes_byte_by_byte_ends_by_the_clock(
    stub: WahaStub, settings: Any, drips: waha_stub.Behaviour
) -> None:
    settings.WAQUEUE_SEND_SECONDS = 1
    stub.on_send = drips
    assert type(failure(outgoing(stub))) is OutcomeUnknown


@pytest.mark.fault(35)
def test_an_answer_of_a_megabyte_is_read_and_a_larger_one_is_uncertain(stub: WahaStub) -> None:
    stub.on_send = waha_stub.huge(15 * 65536)
    assert send(outgoing(stub)) == ["3EB0HUGE"]
    stub.on_send = waha_stub.huge(1000 * 65536)
    error = failure(outgoing(stub))
    assert type(error) is OutcomeUnknown and "larger than a megabyte" in error.detail


# Engines that cannot be reached


@pytest.mark.fault(21)
def test_nobody_listens(stub: WahaStub) -> None:
    address = f"http://127.0.0.1:{find_free_port()}"
    error = failure(outgoing(stub, config={"base_url": address}))
    assert type(error) is NotConnected
    assert error.detail == f"the engine at {address} cannot be reached: connection refused"


def test_a_name_that_nobody_knows(stub: WahaStub) -> None:
    error = failure(outgoing(stub, config={"base_url": "http://waha.invalid:3000"}))
    assert type(error) is NotConnected
    assert "http://waha.invalid:3000 cannot be found" in error.detail


def test_a_host_that_does_not_answer(stub: WahaStub, settings: Any) -> None:
    settings.WAQUEUE_SEND_SECONDS = 1
    # A socket that nobody accepts from: once its queue is full, the system leaves further callers without an answer.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        error = failure(outgoing(stub, config={"base_url": f"http://127.0.0.1:{deaf.getsockname()[1]}"}))
        for one in waiting:
            one.close()
    assert type(error) is NotConnected
    assert "in time" in error.detail


def _certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    return context


def test_a_certificate_that_is_not_trusted_and_a_server_without_tls(stub: WahaStub, tmp_path: Path) -> None:
    with WahaStub(tls=_certificate(tmp_path)) as encrypted:
        error = failure(outgoing(encrypted))
        assert type(error) is NotConnected
        assert error.detail == f"the certificate of the engine at {encrypted.url} is not trusted"
        assert not encrypted.paths
    error = failure(outgoing(stub, config={"base_url": stub.url.replace("http:", "https:")}))
    assert type(error) is NotConnected
    assert "does not speak TLS" in error.detail


# Many at once, and one after another


def test_a_thousand_at_once_all_arrive_and_the_engine_is_not_overrun(
    stub: WahaStub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long a busy machine needs for a thousand.
    settings.WAQUEUE_SEND_SECONDS = 600
    monkeypatch.setattr(http, "_CONNECT_SECONDS", 200)
    stub.on_send = waha_stub.delayed(0.02)
    results = send(*(outgoing(stub, token=token, text=str(token)) for token in range(1000)))
    assert len(set(results)) == 1000 and all(str(result).startswith("3EB0") for result in results)
    assert {sent.text for sent in stub.accepted} == {str(token) for token in range(1000)}
    assert stub.most_in_flight <= 100
    assert stub.connections <= 100


def test_two_hundred_one_after_another_take_one_connection(stub: WahaStub) -> None:
    async def act(waha: WahaTransport) -> None:
        for token in range(200):
            await waha.send(outgoing(stub, token=token))

    with_waha(act)
    assert len(stub.accepted) == 200
    assert stub.connections == 1


@pytest.mark.fault(24)
def test_an_engine_that_hangs_does_not_take_the_connections_of_another(stub: WahaStub, settings: Any) -> None:
    async def act(waha: WahaTransport) -> tuple[list[Any], list[Any]]:
        stuck = [asyncio.create_task(waha.send(outgoing(hanging))) for _ in range(150)]
        await until(lambda: len(hanging.arrived) == 100, 30, "all that there is room for have arrived")
        served = [await waha.send(outgoing(stub)) for _ in range(20)]
        return served, await asyncio.gather(*stuck, return_exceptions=True)

    settings.WAQUEUE_SEND_SECONDS = 4
    with WahaStub(sessions={"school": waha_stub.WORKING}) as hanging:
        hanging.on_send = waha_stub.silent
        served, stuck = with_waha(act)
    assert len(served) == 20
    # Whoever got a connection may have been heard; whoever waited for one in vain was not.
    kinds = [type(result) for result in stuck]
    assert (kinds.count(OutcomeUnknown), kinds.count(NotConnected)) == (100, 50)
    assert len(hanging.arrived) == 100


def test_a_connection_that_rests_is_not_used_again_before_the_engine_could_close_it(stub: WahaStub) -> None:
    # Time itself is what is tested: the engine resets whatever comes on a connection that rested for longer.
    limit = http._KEEP_ALIVE_SECONDS
    stub.reset_after_idle_seconds = limit + 0.3
    pauses = (0.2, limit / 2, limit + 0.4, 0.1)

    async def act(waha: WahaTransport) -> list[tuple[float, float]]:
        times = []
        for pause in (0, *pauses):
            await asyncio.sleep(pause)
            began = time.monotonic()
            await waha.send(outgoing(stub))
            times.append((began, time.monotonic()))
        return times

    for _ in range(5):
        before = stub.connections, len(stub.accepted)
        times = with_waha(act)
        made, accepted = stub.connections - before[0], len(stub.accepted) - before[1]
        assert accepted == len(pauses) + 1
        assert made >= 2
        # From before one message to after the next: the connection rested for less than that in between.
        rested = [ended - began for (began, _), (_, ended) in itertools.pairwise(times)]
        # A busy machine makes pauses longer than they should be: that try says nothing.
        if all(seconds < limit for seconds, pause in zip(rested, pauses, strict=True) if pause < limit):
            assert made == 2
            return
    pytest.fail("this machine was too busy to measure it")


def test_connections_that_the_engine_has_closed_are_replaced(stub: WahaStub) -> None:
    port = stub.port

    async def act(waha: WahaTransport) -> None:
        await asyncio.gather(*(waha.send(outgoing(stub)) for _ in range(10)))
        await asyncio.to_thread(stub.stop)
        stub.port = port
        await asyncio.to_thread(stub.start)
        await asyncio.gather(*(waha.send(outgoing(stub)) for _ in range(10)))

    with_waha(act)
    assert len(stub.accepted) == 20


def test_the_environments_proxy_is_not_used(stub: WahaStub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{find_free_port()}")
    assert send(outgoing(stub)) == ["3EB000000001"]


def test_a_cookie_of_one_answer_is_not_sent_with_the_next(stub: WahaStub) -> None:
    async def act(waha: WahaTransport) -> None:
        stub.on_send = answering(401, {"message": "no"}, Set_Cookie="sid=1; Path=/")
        with pytest.raises(SessionRefused):
            await waha.send(outgoing(stub))
        stub.on_send = None
        await waha.send(outgoing(stub))

    with_waha(act)
    assert "Cookie" not in stub.accepted[0].headers
