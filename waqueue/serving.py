"""Whether this process serves: a web server or a worker, and not a command that merely imports the project."""

from collections.abc import Callable

_waiting: list[Callable[[], None]] = []
_serves = False


def declare() -> None:
    """Say that this process serves. Called by `waqueue/wsgi.py`, `waqueue/asgi.py` and the worker."""
    global _serves
    if not _serves:
        _serves = True
        for callback in _waiting:
            callback()


def when_serving(callback: Callable[[], None]) -> None:
    """Call `callback` once this process says that it serves; at once if it has said so already."""
    if _serves:
        callback()
    else:
        _waiting.append(callback)
