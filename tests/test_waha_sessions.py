"""A session on WAHA: its settings, and what a probe says of it."""

from typing import Any

import pytest

from sessions_app.exceptions import InvalidInput, NotConnected
from sessions_app.models import ObservedState
from sessions_app.services.pacing import Pacing
from sessions_app.transports.base import Observation
from sessions_app.transports.waha import WahaTransport
from tests import waha_stub
from tests.waha_lab import PAGE, config_of, with_waha
from tests.waha_stub import WahaStub, answering

# Probing


def probe(stub: WahaStub, name: str = "school", **config: Any) -> Observation:
    return with_waha(lambda waha: waha.probe(name, config_of(stub, **config)))


@pytest.mark.parametrize(
    ("status", "state", "phone"),
    [
        ("STOPPED", ObservedState.STOPPED, ""),
        ("STARTING", ObservedState.STARTING, ""),
        ("SCAN_QR_CODE", ObservedState.NEEDS_PAIRING, ""),
        ("PASSKEY_REQUIRED", ObservedState.NEEDS_PAIRING, ""),
        ("WORKING", ObservedState.WORKING, "+5511999990001"),
        ("FAILED", ObservedState.FAILED, ""),
        ("DREAMING", ObservedState.FAILED, ""),
    ],
)
def test_a_probe_says_how_the_session_is(stub: WahaStub, status: str, state: ObservedState, phone: str) -> None:
    stub.sessions["school"] = status
    observed = probe(stub)
    assert (observed.state, observed.phone) == (state, phone)
    assert bool(observed.reason) == (state not in (ObservedState.WORKING, ObservedState.STARTING))


@pytest.mark.parametrize(
    ("me", "phone"),
    [
        ({"id": "5511999990001:12@s.whatsapp.net"}, "+5511999990001"),
        ({"id": "99887766554433@lid"}, ""),
        ({"id": None}, ""),
        ({}, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_the_phone_is_read_where_it_stands(stub: WahaStub, me: Any, phone: str) -> None:
    stub.me = me
    assert probe(stub) == Observation(ObservedState.WORKING, "", phone)


def test_a_probe_of_what_waha_does_not_know_or_refuses(stub: WahaStub) -> None:
    unknown = probe(stub, "other")
    assert unknown.state == ObservedState.STOPPED and "does not know the session" in unknown.reason
    refused = probe(stub, api_key="wrong")
    assert refused.state == ObservedState.FAILED and "api_key" in refused.reason
    stub.on_status = answering(200, {"name": "school"})
    assert probe(stub).state == ObservedState.FAILED
    stub.on_status = answering(200, raw=b"<h1>It works!</h1>")
    assert probe(stub).state == ObservedState.FAILED


@pytest.mark.parametrize(
    "behaviour", [answering(502, raw=PAGE), answering(302, Location="/x"), waha_stub.resetting_unread]
)
def test_a_probe_that_gets_no_answer_of_waha_is_not_connected(stub: WahaStub, behaviour: waha_stub.Behaviour) -> None:
    stub.on_status = behaviour
    with pytest.raises(NotConnected):
        probe(stub)


def test_the_name_is_quoted_in_the_path(stub: WahaStub) -> None:
    name = "Ñandú/../1 ?x#y%2e"
    stub.sessions[name] = "SCAN_QR_CODE"
    assert probe(stub, remote_name=name).state == ObservedState.NEEDS_PAIRING
    assert stub.paths == ["/api/sessions/%C3%91and%C3%BA%2F..%2F1%20%3Fx%23y%252e"]


# Configuration


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://127.0.0.1:3000/", "http://127.0.0.1:3000"),
        (" https://waha.example/prefix// ", "https://waha.example/prefix"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://localhost", "http://localhost"),
        ("http://10.0.0.7:3000", "http://10.0.0.7:3000"),
        ("http://ñandú.example", "http://ñandú.example"),
    ],
)
def test_addresses_that_fit_are_kept_without_a_slash_at_the_end(address: str, kept: str) -> None:
    assert WahaTransport.clean_config({"base_url": address})["base_url"] == kept


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ({}, "base_url", "is needed"),
        ({"base_url": ""}, "base_url", "is needed"),
        ({"base_url": 7}, "base_url", "text"),
        ({"base_url": "127.0.0.1:3000"}, "base_url", "address"),
        ({"base_url": "ftp://127.0.0.1"}, "base_url", "http"),
        ({"base_url": "file:///etc/passwd"}, "base_url", "address"),
        ({"base_url": "http://"}, "base_url", "address"),
        ({"base_url": "http://host:99999"}, "base_url", "address"),
        ({"base_url": "http://host:0"}, "base_url", "host"),
        ({"base_url": "http://ho st"}, "base_url", "spaces"),
        ({"base_url": "http://host\nX: y"}, "base_url", "spaces"),
        ({"base_url": "http://host\\@evil"}, "base_url", "spaces"),
        ({"base_url": "http://me:sesame@host"}, "base_url", "password"),
        ({"base_url": "http://me@host"}, "base_url", "password"),
        ({"base_url": "http://host?key=sesame"}, "base_url", "before"),
        ({"base_url": "http://host#x"}, "base_url", "before"),
        ({"base_url": "http://host/" + "x" * 500}, "base_url", "address"),
        ({"base_url": "http://host", "api_key": "two words"}, "api_key", "without spaces"),
        ({"base_url": "http://host", "api_key": "line\nbreak"}, "api_key", "without spaces"),
        ({"base_url": "http://host", "api_key": "ñ"}, "api_key", "ASCII"),
        ({"base_url": "http://host", "api_key": 7}, "api_key", "text"),
        ({"base_url": "http://host", "remote_name": ".."}, "remote_name", "name"),
        ({"base_url": "http://host", "remote_name": " x"}, "remote_name", "spaces"),
        ({"base_url": "http://host", "remote_name": "x" * 101}, "remote_name", "100"),
        ({"base_url": "http://host", "remote_name": "x\x00"}, "remote_name", "name"),
        ({"base_url": "http://host", "delay_ms": 1}, "delay_ms", "unknown"),
    ],
)
def test_what_does_not_fit_is_named_and_not_repeated(config: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        WahaTransport.clean_config(config)
    (error,) = caught.value.errors
    assert error["field"] == f"config.{field}"
    assert words in error["message"], error
    assert "sesame" not in str(caught.value)


def test_its_pace_is_the_one_that_waha_advises() -> None:
    pacing = Pacing(**WahaTransport.default_pacing)
    assert (pacing.min_interval_ms, pacing.max_interval_ms, pacing.daily_cap) == (30_000, 60_000, 1_000)
    assert not pacing.problems()
