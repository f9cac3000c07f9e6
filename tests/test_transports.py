"""The contract of a transport, held against every one that there is."""

import asyncio
import json
from typing import Any

import pytest

from sessions_app.exceptions import InvalidInput
from sessions_app.models import ObservedState, Session
from sessions_app.services.pacing import Pacing
from sessions_app.transports import registry
from sessions_app.transports.base import Transport
from sessions_app.transports.sealing import is_sealed

# Settings that fit, with every secret.
EXAMPLES: dict[str, dict[str, Any]] = {
    "loopback": {"delay_ms": 5},
    "waha": {"base_url": "http://127.0.0.1:3000/", "api_key": "sesame-key", "webhook_secret": "sesame-hook"},
}

every = pytest.mark.parametrize("name", registry.names())


def test_every_transport_has_its_example() -> None:
    assert set(EXAMPLES) == set(registry.names())


@every
def test_it_is_called_as_sessions_call_it_and_says_what_it_is(name: str) -> None:
    transport = registry.get(name)
    longest = Session._meta.get_field("transport").max_length
    assert transport.name == name and longest is not None and len(name) <= longest
    assert transport.title and all(setting.help for setting in transport.fields)
    assert transport.first_state in ObservedState.values
    assert transport.max_in_flight >= 1
    assert not Pacing(**transport.default_pacing).problems()


@every
def test_its_secrets_are_text_and_none_is_there_by_itself(name: str) -> None:
    for setting in registry.get(name).fields:
        if setting.secret:
            assert setting.type is str and setting.default == "" and not setting.choices


@every
def test_what_is_not_known_or_does_not_fit_is_named(name: str) -> None:
    transport = registry.get(name)
    with pytest.raises(InvalidInput) as caught:
        transport.clean_config({setting.name: [] for setting in transport.fields} | {"unheard_of": 1})
    named = {error["field"] for error in caught.value.errors}
    assert named == {f"config.{setting.name}" for setting in transport.fields} | {"config.unheard_of"}


@every
def test_settings_go_into_a_row_sealed_and_come_out_as_they_went_in(name: str) -> None:
    transport = registry.get(name)
    cleaned = transport.clean_config(EXAMPLES[name])
    stored = json.loads(json.dumps(transport.stored_config(EXAMPLES[name])))
    assert "sesame" not in json.dumps(stored)
    for setting in transport.fields:
        assert is_sealed(stored[setting.name]) == (setting.secret and bool(cleaned[setting.name]))
    assert transport.open_config(stored) == cleaned
    assert transport.stored_config({}, stored) == stored
    assert transport.public_config(stored) == {
        setting.name: cleaned[setting.name] for setting in transport.fields if not setting.secret
    }


@every
def test_it_opens_and_closes_without_having_sent_anything(name: str) -> None:
    async def act(transport: Transport) -> None:
        await transport.open()
        await transport.close()

    asyncio.run(act(registry.get(name)()))
