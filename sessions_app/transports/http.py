"""HTTP to engines. It tells what surely was not sent (NotConnected) from what may have been (OutcomeUnknown).

Nothing is ever sent again here: whether a message goes once more is not the client's to decide.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from django.conf import settings
from yarl import URL

from sessions_app.exceptions import NotConnected, OutcomeUnknown

# What one engine gets at once from one worker. A WAHA with hundreds of sessions sends a few dozen messages a second;
# one that hangs must not take all that the worker may have in flight. Whoever is beyond it waits for a connection.
_CONNECTIONS_PER_ENGINE = 100
_CONNECTIONS = 1000
# Servers close idle connections, and a request that meets the closing is lost or not: nobody knows. Node, in which
# most engines are written, closes after 5 s (nodejs.org/api/http.html, server.keepAliveTimeout), uvicorn and Apache
# too; aiohttp keeps them for 15 s and does not send a POST again (aiohttp 3.14, client.py, IDEMPOTENT_METHODS). So a
# connection that has rested for longer than this is not used again.
_KEEP_ALIVE_SECONDS = 2.0
# To get a connection at all, and for the network's part of it. Both end well before the attempt does, so that an engine
# that cannot be reached is known as that, and not as an answer that did not come.
_CONNECT_SECONDS = 20.0
_SOCKET_SECONDS = 5.0
_MAX_ANSWER_BYTES = 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine answered. `headers` are by name, in any case; `document` is its JSON, None for what is none."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    document: Any

    @property
    def is_success(self) -> bool:
        """Whether the engine says that it did what it was asked."""
        return 200 <= self.status < 300


class EngineClient:
    """The connections of one worker process to the engines of one transport. Any number of requests at once."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready, in the running loop."""
        attempt = settings.WAQUEUE_SEND_SECONDS
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS, limit_per_host=_CONNECTIONS_PER_ENGINE, keepalive_timeout=_KEEP_ALIVE_SECONDS
            ),
            timeout=aiohttp.ClientTimeout(
                total=attempt,
                connect=min(_CONNECT_SECONDS, attempt / 3),
                sock_connect=min(_SOCKET_SECONDS, attempt / 3),
            ),
            # An answer that was packed would have to be unpacked before its size is known.
            auto_decompress=False,
            headers={"User-Agent": "waqueue", "Accept": "application/json", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def request(self, method: str, url: URL, *, headers: Mapping[str, str], document: Any = None) -> Reply:
        """Send one request, with `document` as JSON, and return the whole answer, whatever its status.

        Redirects are answers like any other. Raises NotConnected when the request surely did not go out, OutcomeUnknown
        when it may have and no whole answer came back, or one that is larger than a megabyte.
        """
        if self._session is None:
            raise RuntimeError("the client of engines was not opened")
        body = None if document is None else json.dumps(document, ensure_ascii=False).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, url, headers={**headers, **kind}, data=body, allow_redirects=False
            ) as response:
                content = await _read(response)
                return Reply(response.status, response.headers, content, _parsed(content))
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ServerFingerprintMismatch,
            aiohttp.InvalidURL,
        ) as error:
            raise NotConnected(_why_unreachable(error, url), provider_code="unreachable") from error
        except aiohttp.ClientPayloadError as error:
            raise OutcomeUnknown("the engine's answer broke off", provider_code="disconnected") from error
        except TimeoutError as error:
            raise OutcomeUnknown("the engine did not answer in time", provider_code="timeout") from error
        except aiohttp.ClientResponseError as error:
            raise OutcomeUnknown("the engine's answer is not HTTP", provider_code="not_http") from error
        except aiohttp.ClientError as error:
            raise OutcomeUnknown(
                "the connection broke before the engine answered", provider_code="disconnected"
            ) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            response.close()
            raise OutcomeUnknown("the engine's answer is larger than a megabyte", provider_code="too_large")
    return b"".join(chunks)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _why_unreachable(error: Exception, url: URL) -> str:
    engine = f"the engine at {url.origin()}"
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection to {engine} in time: it is away, or busy with as many requests as it gets"
        case aiohttp.ClientConnectorDNSError():
            return f"{engine} cannot be found: its name is unknown"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {engine} is not trusted"
        case aiohttp.ClientConnectorSSLError():
            return f"{engine} does not speak TLS as it should"
        case aiohttp.ClientConnectorError() if error.os_error.errno:
            return f"{engine} cannot be reached: {os.strerror(error.os_error.errno).lower()}"
    return f"{engine} cannot be reached"
