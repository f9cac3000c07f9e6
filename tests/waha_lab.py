"""What tests of WAHA's transport share: messages for the simulator, and a loop to send them in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sessions_app.exceptions import SendError
from sessions_app.models import new_id
from sessions_app.transports.base import Outgoing
from sessions_app.transports.waha import WahaTransport
from tests.waha_stub import WahaStub

PHONE = "+5511987654321"
TEXT = "Ana no vino hoy a clase"
KEY = "k3y-0f-the-engine"
HOOK = "h00k-s3cret"
# What a proxy answers in the place of the engine behind it.
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def config_of(stub: WahaStub, **config: Any) -> dict[str, Any]:
    """Settings that lead to `stub`, with the right key."""
    given = {"base_url": stub.url, "api_key": KEY, "webhook_secret": HOOK} | config
    return WahaTransport.clean_config(given)


def outgoing(stub: WahaStub, *, token: int = 1, session: str = "school", **changes: Any) -> Outgoing:
    """A text for `stub`; `config` and parts of the content may differ."""
    config = config_of(stub, **changes.pop("config", {}))
    content = {"to": PHONE, "type": "text", "text": TEXT} | changes
    return Outgoing(new_id(), token, session, config, content)


def with_waha(act: Callable[[WahaTransport], Awaitable[Any]]) -> Any:
    """Do something with an open transport, in a loop of its own."""

    async def run() -> Any:
        transport = WahaTransport()
        await transport.open()
        try:
            return await act(transport)
        finally:
            await transport.close()

    return asyncio.run(run())


def send(*messages: Outgoing) -> list[Any]:
    """What each answered or raised, all sent at once."""
    return list(with_waha(lambda waha: asyncio.gather(*(waha.send(one) for one in messages), return_exceptions=True)))


def failure(message: Outgoing) -> SendError:
    """Why this message was not accepted."""
    (result,) = send(message)
    assert isinstance(result, SendError), result
    return result
