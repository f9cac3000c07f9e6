"""Loopback keeps what it was asked to send, in order, and delays and fails as its session's configuration says."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from sessions_app.exceptions import (
    InvalidInput,
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import LoopbackEntry, ObservedState, new_id
from sessions_app.transports import loopback, registry
from sessions_app.transports.base import ConfigField, Outgoing, Transport
from sessions_app.transports.loopback import LoopbackTransport

FAILURES = {
    "rejected": PermanentError,
    "retry": RetryableError,
    "not_connected": NotConnected,
    "refused": SessionRefused,
    "uncertain": OutcomeUnknown,
}


def outgoing(token: int = 1, session: str = "alpha", text: str = "hello", **config: Any) -> Outgoing:
    return Outgoing(new_id(), token, session, LoopbackTransport.clean_config(config), {"to": "12345", "text": text})


def with_loopback(act: Callable[[LoopbackTransport], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        transport = LoopbackTransport()
        await transport.open()
        try:
            return await act(transport)
        finally:
            await transport.close()

    return asyncio.run(run())


def send(*messages: Outgoing) -> list[Any]:
    """What each answered or raised, all sent at once."""
    return with_loopback(
        lambda transport: asyncio.gather(*(transport.send(one) for one in messages), return_exceptions=True)
    )


kept = pytest.mark.django_db(transaction=True)


# Sending


@kept
def test_it_keeps_what_it_was_asked_to_send() -> None:
    message = outgoing(token=42, text="¿ñandú? 🦤")
    assert send(message) == ["loopback-42"]
    entry = LoopbackEntry.objects.get()
    assert (entry.message_id, entry.token, entry.session_name) == (message.message_id, 42, "alpha")
    assert (entry.content, entry.outcome) == (message.content, "accepted")
    assert entry.created_at is not None


@kept
def test_it_keeps_them_in_the_order_in_which_they_came() -> None:
    async def act(transport: LoopbackTransport) -> None:
        for start in range(0, 300, 100):
            await asyncio.gather(*(transport.send(outgoing(token)) for token in range(start, start + 100)))
            await transport.send(outgoing(1000 + start))

    with_loopback(act)
    expected = [*range(100), 1000, *range(100, 200), 1100, *range(200, 300), 1200]
    assert list(LoopbackEntry.objects.order_by("id").values_list("token", flat=True)) == expected


@kept
def test_it_keeps_the_message_the_moment_it_comes_and_answers_after_the_delay() -> None:
    async def act(transport: LoopbackTransport) -> None:
        began = time.monotonic()
        sending = asyncio.create_task(transport.send(outgoing(1, delay_ms=1_000)))
        # One turn of the loop: it has come.
        await asyncio.sleep(0)
        # What comes later is not kept waiting.
        assert await transport.send(outgoing(2)) == "loopback-2"
        assert not sending.done()
        assert await sending == "loopback-1"
        assert time.monotonic() - began >= 1

    with_loopback(act)
    assert list(LoopbackEntry.objects.order_by("id").values_list("token", flat=True)) == [1, 2]


@kept
def test_a_send_that_is_cancelled_while_it_waits_has_been_kept_and_the_others_go_on() -> None:
    async def act(transport: LoopbackTransport) -> None:
        hanging = asyncio.create_task(transport.send(outgoing(1, delay_ms=60_000)))
        # One turn of the loop: it has come.
        await asyncio.sleep(0)
        await transport.send(outgoing(2))
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await transport.send(outgoing(3)) == "loopback-3"

    with_loopback(act)
    assert LoopbackEntry.objects.count() == 3


@kept
def test_a_send_that_is_cancelled_while_it_is_being_kept_does_not_take_the_others_along() -> None:
    async def act(transport: LoopbackTransport) -> list[Any]:
        sends = [asyncio.create_task(transport.send(outgoing(token))) for token in range(5)]
        # One turn of the loop: they have come, and none is written yet.
        await asyncio.sleep(0)
        sends[2].cancel()
        return await asyncio.gather(*sends, return_exceptions=True)

    results = with_loopback(act)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [result for at, result in enumerate(results) if at != 2] == [f"loopback-{at}" for at in (0, 1, 3, 4)]


# Failing


@kept
@pytest.mark.parametrize(("fail_as", "error"), FAILURES.items())
def test_it_fails_as_it_is_told_and_keeps_what_it_was_asked_all_the_same(fail_as: str, error: type[SendError]) -> None:
    (result,) = send(outgoing(fail_rate=1, fail_as=fail_as))
    assert type(result) is error
    assert result.provider_code == "loopback"
    assert LoopbackEntry.objects.get().outcome == fail_as


@kept
def test_it_fails_as_often_as_it_is_told() -> None:
    results = send(*(outgoing(token, fail_rate=0.5) for token in range(400)))
    failed = sum(isinstance(result, PermanentError) for result in results)
    # Five standard deviations around the middle.
    assert 150 < failed < 250
    assert LoopbackEntry.objects.filter(outcome="rejected").count() == failed
    assert LoopbackEntry.objects.filter(outcome="accepted").count() == 400 - failed


@kept
def test_without_a_configuration_nothing_fails() -> None:
    bare = Outgoing(new_id(), 7, "alpha", {}, {"to": "12345"})
    assert send(bare, *(outgoing(token) for token in range(100)))[:2] == ["loopback-7", "loopback-0"]


def test_what_it_cannot_keep_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise psycopg.OperationalError("no database today")

    monkeypatch.setattr(loopback, "connect", away)
    results = send(outgoing(1), outgoing(2))
    assert [type(result) for result in results] == [OutcomeUnknown] * 2
    assert "no database today" in results[0].detail


@kept
def test_it_opens_another_connection_when_the_one_it_had_is_gone() -> None:
    async def act(transport: LoopbackTransport) -> list[Any]:
        first = await transport.send(outgoing(1))
        assert transport._connection is not None
        await transport._connection.close()
        return [first, await transport.send(outgoing(2))]

    assert with_loopback(act) == ["loopback-1", "loopback-2"]


# Probing


@pytest.mark.parametrize(
    ("config", "state"),
    [
        ({}, ObservedState.WORKING),
        ({"fail_rate": 1, "fail_as": "not_connected"}, ObservedState.STOPPED),
        ({"fail_rate": 0.5, "fail_as": "not_connected"}, ObservedState.WORKING),
        ({"fail_rate": 1, "fail_as": "rejected"}, ObservedState.WORKING),
    ],
)
def test_a_probe_says_that_it_works_unless_nothing_is_ever_connected(
    config: dict[str, Any], state: ObservedState
) -> None:
    observation = with_loopback(lambda transport: transport.probe("alpha", config))
    assert observation.state == state
    assert bool(observation.reason) == (state != ObservedState.WORKING)


# Configuration


def test_what_is_not_configured_has_its_default() -> None:
    assert LoopbackTransport.clean_config({}) == {"delay_ms": 0, "fail_rate": 0.0, "fail_as": "rejected"}
    assert LoopbackTransport.clean_config({"delay_ms": 250})["delay_ms"] == 250


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"delay_ms": -1}, ["delay_ms"]),
        ({"delay_ms": 600_001}, ["delay_ms"]),
        ({"delay_ms": 1.5}, ["delay_ms"]),
        ({"delay_ms": "1"}, ["delay_ms"]),
        ({"delay_ms": True}, ["delay_ms"]),
        ({"delay_ms": None}, ["delay_ms"]),
        ({"delay_ms": float("nan")}, ["delay_ms"]),
        ({"delay_ms": float("inf")}, ["delay_ms"]),
        ({"fail_rate": 1.01}, ["fail_rate"]),
        ({"fail_rate": -0.01}, ["fail_rate"]),
        ({"fail_rate": float("nan")}, ["fail_rate"]),
        ({"fail_rate": [1]}, ["fail_rate"]),
        ({"fail_as": "rudely"}, ["fail_as"]),
        ({"fail_as": ""}, ["fail_as"]),
        ({"fail_as": 1}, ["fail_as"]),
        ({"fail_as": ["rejected"]}, ["fail_as"]),
        ({"fail": 1}, ["fail"]),
        ({"fail": 1, "delay_ms": -1, "fail_rate": 2, "fail_as": "x"}, ["fail", "delay_ms", "fail_rate", "fail_as"]),
    ],
)
def test_what_does_not_fit_is_named(config: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        LoopbackTransport.clean_config(config)
    assert [error["field"] for error in caught.value.errors] == [f"config.{field}" for field in fields]


class WithSecrets(Transport):
    name = "with-secrets"
    title = "With secrets"
    fields = (
        ConfigField("base_url", "where the engine is", required=True),
        ConfigField("api_key", "its key", required=True, secret=True),
        ConfigField("note", "anything"),
    )

    async def send(self, outgoing: Outgoing) -> str:
        return str(uuid.uuid4())

    async def probe(self, session_name: str, config: dict[str, Any]) -> Any:
        raise NotConnected


def test_what_is_needed_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="is needed: its key") as caught:
        WithSecrets.clean_config({"base_url": "https://example.org", "api_key": ""})
    assert [error["field"] for error in caught.value.errors] == ["config.api_key"]


def test_a_secret_never_comes_out_again() -> None:
    config = WithSecrets.clean_config({"base_url": "https://example.org", "api_key": "hush"})
    assert WithSecrets.public_config(config) == {"base_url": "https://example.org", "note": ""}


def test_a_transport_that_was_registered_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TRANSPORTS", dict(registry._TRANSPORTS))
    with pytest.raises(InvalidInput, match="one of: loopback") as caught:
        registry.get("with-secrets")
    assert caught.value.errors[0]["field"] == "transport"
    registry.register(WithSecrets)
    assert registry.get("with-secrets") is WithSecrets
    assert registry.names() == ("loopback", "waha", "with-secrets")
    assert ("with-secrets", "With secrets") in registry.choices()
