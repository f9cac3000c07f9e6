"""What gunicorn reads: it says when a process has loaded its application."""

from typing import Any

READY = "this process serves"


def post_worker_init(_worker: Any) -> None:
    """Called by each process just before it accepts."""
    print(READY, flush=True)
