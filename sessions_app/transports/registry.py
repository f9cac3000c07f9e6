"""Which transports there are. Adding one is a file and a line here; CONTRIBUTING.md has the recipe."""

from sessions_app.exceptions import InvalidInput
from sessions_app.transports.base import Transport
from sessions_app.transports.loopback import LoopbackTransport
from sessions_app.transports.waha import WahaTransport

_TRANSPORTS: dict[str, type[Transport]] = {
    transport.name: transport for transport in (LoopbackTransport, WahaTransport)
}


def names() -> tuple[str, ...]:
    """The names by which sessions choose their transport."""
    return tuple(_TRANSPORTS)


def get(name: str) -> type[Transport]:
    """The transport of that name. Raises InvalidInput that names the field."""
    try:
        return _TRANSPORTS[name]
    except KeyError:
        raise InvalidInput([{"field": "transport", "message": f"one of: {', '.join(_TRANSPORTS)}"}]) from None


def looking_up() -> list[str]:
    """The names of those that can be asked about a message."""
    return [name for name, transport in _TRANSPORTS.items() if transport.looks_up]


def choices() -> list[tuple[str, str]]:
    """Names and titles, for forms."""
    return [(transport.name, transport.title) for transport in _TRANSPORTS.values()]


def register(transport: type[Transport]) -> None:
    """Make one more transport known to this process: for transports that live outside waqueue, and benchmarks."""
    _TRANSPORTS[transport.name] = transport
