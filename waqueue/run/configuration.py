"""What the environment says about a run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parents[2]
HOME = PROJECT / "var"

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - read, not bound


class RunError(Exception):
    """The run cannot begin or go on. The message is one sentence that says what to do."""


@dataclass(frozen=True)
class Configuration:
    """Where the data are, where the web server listens, and which stores to use instead of the embedded ones."""

    home: Path
    bind: str
    port: int
    public_url: str
    database_url: str | None
    redis_url: str | None
    drain_s: float

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Configuration":
        """Read WAQUEUE_HOME, WAQUEUE_BIND, WAQUEUE_PORT, WAQUEUE_PUBLIC_URL, DATABASE_URL and REDIS_URL."""
        return cls(
            home=home_of(environ),
            bind=environ.get("WAQUEUE_BIND", "127.0.0.1").strip("[]"),
            port=int(_number(environ, "WAQUEUE_PORT", 8000, 1, 65_535)),
            public_url=environ.get("WAQUEUE_PUBLIC_URL", "").rstrip("/"),
            database_url=environ.get("DATABASE_URL") or None,
            redis_url=environ.get("REDIS_URL") or None,
            drain_s=_number(environ, "WAQUEUE_DRAIN_SECONDS", 60, 0, 86_400),
        )

    @property
    def listen_address(self) -> str:
        """Host and port as gunicorn wants them."""
        return _join(self.bind, self.port)

    @property
    def local_address(self) -> tuple[str, int]:
        """Host and port under which this machine reaches the web server."""
        return _WILDCARDS.get(self.bind, self.bind), self.port

    @property
    def base_url(self) -> str:
        """What stands before every path, for people to click and to paste."""
        return self.public_url or f"http://{_join(*self.local_address)}"

    @property
    def database_label(self) -> str:
        """Return a short name of the database, empty for the embedded one: credentials are kept per database."""
        if self.database_url is None:
            return ""
        parts = urlsplit(self.database_url)
        place = f"{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
        return f"-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def home_of(environ: Mapping[str, str]) -> Path:
    """Read WAQUEUE_HOME."""
    return Path(environ.get("WAQUEUE_HOME") or HOME).expanduser().absolute()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(environ: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise RunError(f"{name} is {text!r}: it has to be a number from {least:g} to {most:g}")
    return value
