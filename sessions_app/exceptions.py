"""Everything that can go wrong, as one tree. A docstring is the exception's default message.

WaqueueError                      has a stable `code`
├── NotFound                      the caller may not see it, or it is not there
│   ├── SessionNotFound
│   ├── MessageNotFound
│   ├── BatchNotFound
│   └── HookNotFound               nothing is received from engines at this address
├── HookRefused                   what claims to come from an engine cannot be believed
│   └── HookUnsigned
├── Conflict                      it is there, but not in a state for this
│   ├── SessionExists
│   ├── SessionHasUnsentMessages
│   ├── WrongState
│   └── StillRunning              the first request with this Idempotency-Key
├── InvalidInput                  names the fields that are wrong
│   └── IdempotencyKeyReused
├── QueueUnavailable              Redis cannot be reached: kept in PostgreSQL, repaired later
│   ├── OtherDeployment           this Redis belongs to another database
│   └── OlderDatabase             this database lacks attempts that Redis knows of
└── SendError                     what a transport raises; its class says what to do next
    ├── RetryableError            not accepted, may work later: another attempt after a wait
    ├── NotConnected              not accepted, the link is down: the queue holds, no attempt is spent
    ├── PermanentError            not accepted, never will be: this message fails, the next one goes
    ├── SessionRefused            not accepted, and none will be until a person acts: the session holds
    │   └── SecretUnreadable      a secret of the session was encrypted with a key that is not set
    └── OutcomeUnknown            nobody can say whether it was accepted: the message becomes uncertain
        └── Poison                    and each process that sends it dies: no policy sends it again
"""

from typing import Any


class WaqueueError(Exception):
    """Something went wrong in waqueue."""

    code = "error"

    def __init__(self, detail: str = "", **extra: Any) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.extra = extra
        super().__init__(self.detail)


class NotFound(WaqueueError):
    """There is no such thing."""

    code = "not_found"


class SessionNotFound(NotFound):
    """There is no session of that name."""

    code = "session_not_found"


class MessageNotFound(NotFound):
    """There is no such message."""

    code = "message_not_found"


class BatchNotFound(NotFound):
    """There is no such batch."""

    code = "batch_not_found"


class HookNotFound(NotFound):
    """Nothing is received from an engine here: there is no such session, or it has no secret for it."""

    code = "hook_not_found"


class HookRefused(WaqueueError):
    """The signature does not fit, or it is older than a day."""

    code = "hook_refused"


class HookUnsigned(HookRefused):
    """It is not signed."""

    code = "hook_unsigned"


class Conflict(WaqueueError):
    """It is not in a state for this."""

    code = "conflict"


class SessionExists(Conflict):
    """A session of that name exists and differs."""

    code = "session_exists"


class SessionHasUnsentMessages(Conflict):
    """The session still has messages to send."""

    code = "session_has_unsent_messages"


class WrongState(Conflict):
    """It is not in a state for this."""

    code = "wrong_state"


class StillRunning(Conflict):
    """The first request with this Idempotency-Key is still running: ask again in a moment."""

    code = "idempotency_key_in_use"


class InvalidInput(WaqueueError):
    """Some of the input does not fit. `errors` is a list of `{"field", "message"}`."""

    code = "invalid_input"

    def __init__(self, errors: list[dict[str, str]], detail: str = "") -> None:
        self.errors = errors
        super().__init__(detail or "; ".join(f"{error['field']}: {error['message']}" for error in errors))


class IdempotencyKeyReused(InvalidInput):
    """This Idempotency-Key was used with another body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            [{"field": "Idempotency-Key", "message": "was used with another body: take a new key for a new request"}]
        )


class QueueUnavailable(WaqueueError):
    """Redis cannot be reached."""

    code = "queue_unavailable"


class OtherDeployment(QueueUnavailable):
    """This Redis belongs to another waqueue database: nothing in it is touched."""

    code = "other_deployment"


class OlderDatabase(QueueUnavailable):
    """This database is older than Redis, restored or short of its last commits: what was sent has to be found first."""

    code = "older_database"


class SendError(WaqueueError):
    """A transport did not get the message accepted. `provider_code` is the engine's own word for why."""

    code = "send_error"

    def __init__(self, detail: str = "", *, provider_code: str = "") -> None:
        self.provider_code = provider_code
        super().__init__(detail)


class RetryableError(SendError):
    """The engine did not accept the message, but may later. `after_ms` is the least wait that it asked for."""

    code = "retry"

    def __init__(self, detail: str = "", *, provider_code: str = "", after_ms: int = 0) -> None:
        self.after_ms = after_ms
        super().__init__(detail, provider_code=provider_code)


class NotConnected(SendError):
    """The session is not connected to WhatsApp."""

    code = "not_connected"


class PermanentError(SendError):
    """The engine will never accept this message."""

    code = "permanent"


class SessionRefused(SendError):
    """The engine refuses this session until a person acts."""

    code = "refused"


class SecretUnreadable(SessionRefused):
    """A secret of this session cannot be read with the keys that are set."""


class OutcomeUnknown(SendError):
    """Nobody can say whether the engine accepted the message."""

    code = "uncertain"


class Poison(OutcomeUnknown):
    """Each process that was sending the message died, the last one with nothing else in it."""

    code = "poison"


def primary_message(error: BaseException) -> str:
    """An error in one line, for logs and reports: what PostgreSQL adds to it quotes rows, so phones and contents."""
    if isinstance(error, WaqueueError):
        return error.detail
    diagnosis = getattr(error, "diag", None) or getattr(error.__cause__, "diag", None)
    said = getattr(diagnosis, "message_primary", None) or str(error).strip()
    return ": ".join([type(error).__name__, *said.splitlines()[:1]])[:300]
