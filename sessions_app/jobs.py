"""What RQ jobs of waqueue name. Each takes an id and calls a service, nothing else."""

import uuid
from typing import Any

from sessions_app.services import messages, tasks
from sessions_app.services.orphans import background  # noqa: F401 (makes its kinds of tasks known)


def send_message(message_id: str, **_content: Any) -> None:
    """Have a message looked at: our worker never calls it, and a stock one that does loses nothing by it."""
    messages.nudge(uuid.UUID(message_id))


def run_task(task_id: str) -> None:
    """Do a long act of staff."""
    tasks.run(uuid.UUID(task_id))
