"""A message as an RQ job: RQ 2.12's own hash, with its JSON serializer, id and content in it.

An unmodified rq lists and reads it, and an orphan can be read although PostgreSQL no longer has the row. It is written
field by field because `rq.job.Job` costs ten times as much; `tests/test_mirror.py` reads it back with RQ.
"""

import json
import zlib

from sessions_app.models import Message, Mirrored
from sessions_app.models.message import written_time
from sessions_app.queues.keys import queue_name

JOB_FUNCTION = "sessions_app.jobs.send_message"
# What a stock worker would allow the job. Ours never runs it as a job.
_TIMEOUT_SECONDS = "180"
# Up to so many bytes, packing takes longer than all else and saves little: RQ reads either (2.12, `Job.restore`).
_PLAIN_BYTES = 1000
# `json.dumps` would make one for every job.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def job_fields(session_name: str, message: Message | Mirrored) -> list[bytes | str]:
    """The job's hash as a flat list of names and values. Its description holds no content: RQ logs it.

    What RQ writes as empty is left out: it reads a field that is not there as an empty one (RQ 2.12, `Job.restore`),
    and nine of them were half of what a job took of Redis' memory, and of the time to put it.
    """
    name = str(message.id)
    call = [JOB_FUNCTION, None, [name], message.content() | message.terms() | {"seq": message.seq}]
    data = _JSON.encode(call).encode()
    return [
        "created_at", written_time(message.created_at),
        "enqueued_at", written_time(message.queued_at or message.created_at),
        "data", zlib.compress(data, 1) if len(data) > _PLAIN_BYTES else data,
        "origin", queue_name(session_name),
        "description", f"message {name}",
        "timeout", _TIMEOUT_SECONDS,
        "status", "queued",
    ]  # fmt: skip
