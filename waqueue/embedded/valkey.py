"""An embedded Valkey (or Redis): password, append-only file, 127.0.0.1."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import redis

from .programs import valkey_program
from .server import EmbeddedServer
from .system import write_private

_DEFAULTS: dict[str, str | int] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    # A full memory must refuse writes, which we notice, and never drop keys, which we would not.
    "maxmemory-policy": "noeviction",
    "save": "",
    "databases": 64,
}


class EmbeddedValkey(EmbeddedServer):
    """A Valkey of our own. It keeps what it was told, but for at most the last second before a crash."""

    title = "Valkey"
    process_names: ClassVar[frozenset[str]] = frozenset({"valkey-server", "redis-server"})
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        *,
        program: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        **options: Any,
    ) -> None:
        """`program` is another server than the wheel's; `settings` are lines of its configuration."""
        super().__init__(folder, settings=_DEFAULTS | dict(settings or {}), **options)
        self._program = program

    @property
    def url(self) -> str:
        return f"redis://:{self._keep_password()}@127.0.0.1:{self.port}/0"

    @property
    def _configuration(self) -> Path:
        return self.folder / "valkey.conf"

    def _prepare(self) -> None:
        self.data_dir.mkdir(mode=0o700, exist_ok=True)

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, Any]]:
        # The password goes by file: everybody on the machine can read a command line.
        values: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self._keep_password(),
            "dir": str(self.data_dir),
            "daemonize": "no",
            "logfile": "",
        }
        values |= self.settings
        write_private(self._configuration, "".join(f"{name} {_quoted(value)}\n" for name, value in values.items()))
        return [self._program or valkey_program(), self._configuration], {}

    def _is_ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=5, retry=None) as client:
                return bool(client.ping())
        except redis.RedisError:
            # Not listening yet, or still reading its file.
            return False

    def _complaint_of(self, line: str) -> str | None:
        # "pid:role day month year time # text", where # marks a warning. A configuration that it cannot read is told
        # without a mark, and as the last line.
        return line.partition(" # ")[2].strip() or None


def _quoted(value: str | int) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
