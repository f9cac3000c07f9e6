"""A network between PostgreSQL and its clients, to break."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_PORT = 5432


class Relay:
    """Hands on what client and server say, until `cut`: from then on neither hears the other, or notices."""

    def __init__(self, server: dict[str, Any]) -> None:
        self._server = server
        self._clients: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_cut = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the server for one client."""
        self._clients.add(writer)
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._server.get("host") or "localhost"), int(self._server.get("port") or _PORT)
        if host.startswith("/"):
            answers, server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            answers, server = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(self._hand_on(reader, server), self._hand_on(answers, writer))
        finally:
            server.close()
            writer.close()

    async def _hand_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not self._is_cut:
                target.write(data)

    def cut(self) -> None:
        """Clients find their connections closed; the server goes on with what it was asked to do."""
        self._is_cut = True
        for client in self._clients:
            client.close()

    async def close(self) -> None:
        """End all that is still handed on."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def relay(parameters: dict[str, Any]) -> AsyncIterator[tuple[Relay, dict[str, Any]]]:
    """A relay to the server of these parameters, and what is other in those of a connection through it."""
    made = Relay(parameters)
    with tempfile.TemporaryDirectory() as folder:
        server = await asyncio.start_unix_server(made.accept, Path(folder) / f".s.PGSQL.{_PORT}")
        try:
            yield made, {"host": folder, "port": _PORT}
        finally:
            server.close()
            await made.close()
