"""The names of all keys that waqueue writes in Redis."""

# Sessions by due time: score in milliseconds since the epoch by Redis' own clock, member the session's name.
DUE = "waqueue:due"
# A version per session: raised by every signal and every claim, compared when a claim is given back.
VERSIONS = "waqueue:versions"
# deployment: whose Redis this is; generation and run_id: what changes when it was wiped or restarted;
# mark: the highest attempt token settled.
META = "waqueue:meta"
# Per worker, how many messages it has in flight, how many more it would take, and when it said so: from these all take
# even shares. CALLED is there for a moment after a worker that left something to the others has called them.
LOADS = "waqueue:loads"
CALLED = "waqueue:called"
# Published to when a session has come due, so that idle workers need not poll. Who publishes may say who it is: it need
# not be woken itself.
WAKE = "waqueue:wake"

# RQ's own.
RQ_QUEUES = "rq:queues"
RQ_SUSPENDED = "rq:suspended"
QUEUE_PREFIX = "wa:"
RQ_QUEUE_PREFIX = "rq:queue:"
RQ_JOB_PREFIX = "rq:job:"


def queue_name(session_name: str) -> str:
    """The RQ queue of a session."""
    return f"{QUEUE_PREFIX}{session_name}"


def queue_key(session_name: str) -> str:
    """The Redis list behind a session's RQ queue."""
    return f"{RQ_QUEUE_PREFIX}{QUEUE_PREFIX}{session_name}"


def job_key(message_id: object) -> str:
    """The Redis hash of a message's RQ job."""
    return f"{RQ_JOB_PREFIX}{message_id}"


def session_of(queue_key: str) -> str | None:
    """The session whose queue this list is by its name, or None for a queue that is not a session's."""
    prefix = RQ_QUEUE_PREFIX + QUEUE_PREFIX
    return queue_key.removeprefix(prefix) if queue_key.startswith(prefix) else None
