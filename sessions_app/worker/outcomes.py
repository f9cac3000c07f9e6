"""What an engine's answer means for a message: pure functions from an outcome to what is to be written."""

import random
import uuid
from dataclasses import dataclass, field, replace

from django.conf import settings

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    Poison,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import MAY_HAVE_ARRIVED, EventKind, Hold, ObservedState, OnUncertain, Outcome, Status
from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.transports import registry

# The wait before attempt n + 1 is random between nothing and BASE doubled with each attempt, and CEILING at most.
_BACKOFF_BASE_MS = 2_000
_BACKOFF_CEILING_MS = 600_000
# The message of so many deaths, the last of them alone, is set aside.
POISON_AFTER = 3
# What the last look-up may take, with the rounds of the worker that asks.
LOOK_UP_SECONDS = 15.0
# An engine may ask for a longer wait, but not for years.
_LONGEST_ASKED_MS = 24 * 3600 * 1000


@dataclass(slots=True)
class Flight:
    """A message that was fenced: this worker alone may hand it over, once, until `deadline` on its own clock."""

    token: int
    message_id: uuid.UUID
    session_id: int
    session_name: str
    transport: str
    on_uncertain: str
    attempts: int
    max_attempts: int
    # Whether more stands behind it in the session's line.
    has_more: bool
    # Seconds on `clock.now()`.
    fenced_at: float
    deadline: float
    # How long its engine took to answer.
    engine_seconds: float = 0.0
    observed_state: str = ObservedState.WORKING
    claimed: ClaimedSession | None = None
    config: dict[str, object] = field(default_factory=dict)
    # Empty for a suspect, which is read by the process that tries it.
    content: dict[str, object] = field(default_factory=dict)
    deaths: int = 0
    # The least wait before the session's next message.
    pace_ms: int = 0
    # Its policy sends it again, and an earlier attempt may have arrived.
    is_doubted: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be written for one attempt. `retry_ms` is the wait before the message may go again."""

    flight: Flight
    outcome: Outcome
    status: Status
    event: str = ""
    provider_id: str = ""
    error_class: str = ""
    error_code: str = ""
    error_detail: str = ""
    retry_ms: int = 0
    # The attempt does not count: the engine never had a say.
    refund: int = 0
    resend: int = 0
    hold: Hold = Hold.NONE
    observed: str = ""
    # Whether the engine was troubled, so that pace and caps count it.
    is_paced: bool = True
    # The process that was sending it died.
    death: int = 0

    @property
    def may_have_arrived(self) -> bool:
        """Whether its message, by this attempt or one before it, may be with its recipient."""
        return self.outcome in (Outcome.SENT, Outcome.UNCERTAIN) or self.flight.is_doubted


def accepted(flight: Flight, provider_id: str) -> Settlement:
    """The engine took it and gave an id. An id is what makes it accepted: without one nobody can say."""
    if not provider_id:
        return refused(flight, OutcomeUnknown("the engine answered without an id"))
    return Settlement(
        flight, Outcome.SENT, Status.SENT, EventKind.MESSAGE_SENT, provider_id=str(provider_id)[:200],
        # An engine that takes messages works, whatever it was said to do before.
        observed="" if flight.observed_state == ObservedState.WORKING else ObservedState.WORKING,
    )  # fmt: skip


def returned(flight: Flight, why: str, *, wait_ms: int = 0) -> Settlement:
    """Put back unsent: it was certainly not handed over."""
    return Settlement(
        flight, Outcome.RETURNED, Status.QUEUED, EventKind.MESSAGE_RETURNED,
        error_detail=why[:1000], retry_ms=wait_ms, refund=1, is_paced=False,
    )  # fmt: skip


def refused(flight: Flight, error: BaseException) -> Settlement:
    """The engine did not accept it, or nobody knows. The error's class says what comes next."""
    problem = error if isinstance(error, SendError) else OutcomeUnknown(f"{type(error).__name__}: {error}")
    base = Settlement(
        flight, Outcome.UNCERTAIN, Status.UNCERTAIN,
        error_class=problem.code, error_code=str(problem.provider_code)[:100], error_detail=str(problem.detail)[:1000],
    )  # fmt: skip
    held = Hold.UNCERTAIN if flight.on_uncertain == OnUncertain.HOLD_SESSION else Hold.NONE
    match problem:
        case RetryableError() if flight.attempts < flight.max_attempts:
            asked = min(int(problem.after_ms or 0), _LONGEST_ASKED_MS)
            wait = max(asked, backoff_ms(flight.attempts))
            return replace(
                base, outcome=Outcome.RETRY, status=Status.QUEUED, event=EventKind.MESSAGE_RETRIED, retry_ms=wait
            )
        case RetryableError() | PermanentError() if flight.is_doubted:
            # Only this attempt has failed. No policy sends it again: that is what was done.
            return replace(
                base, outcome=Outcome.FAILED, event=EventKind.MESSAGE_UNCERTAIN, hold=held,
                error_class=OutcomeUnknown.code,
                error_detail=f"refused now ({base.error_detail[:900]}), but {MAY_HAVE_ARRIVED}",
            )  # fmt: skip
        case RetryableError() | PermanentError():
            return replace(base, outcome=Outcome.FAILED, status=Status.FAILED, event=EventKind.MESSAGE_FAILED)
        case NotConnected():
            return replace(
                base, outcome=Outcome.HELD, status=Status.QUEUED, refund=1, hold=Hold.NOT_CONNECTED,
                observed=ObservedState.STOPPED, is_paced=False,
            )  # fmt: skip
        case SessionRefused():
            return replace(
                base, outcome=Outcome.REFUSED, status=Status.QUEUED, refund=1, hold=Hold.REFUSED,
                observed=ObservedState.FAILED, is_paced=False,
            )  # fmt: skip
    is_poison = isinstance(problem, Poison)
    if flight.on_uncertain == OnUncertain.RESEND and flight.attempts < flight.max_attempts and not is_poison:
        wait = max(backoff_ms(flight.attempts), _looked_up_ms(flight.transport))
        return replace(base, status=Status.QUEUED, event=EventKind.MESSAGE_RESENT, resend=1, retry_ms=wait)
    event = EventKind.MESSAGE_POISON if is_poison else EventKind.MESSAGE_UNCERTAIN
    return replace(base, event=event, hold=held)


def died(flight: Flight, why: str) -> Settlement:
    """The process that was sending it died, with others in it: it may be the cause, and is tried alone from now on."""
    return replace(refused(flight, OutcomeUnknown(why)), death=1)


def died_alone(flight: Flight) -> Settlement:
    """The process that was sending it, and nothing else, died: the third death of a message sets it aside."""
    deaths = flight.deaths + 1
    if deaths < POISON_AFTER:
        return died(flight, "the process in which it was tried alone died")
    error = Poison(f"{deaths} times the process that was sending it died, the last time with nothing else in it")
    return replace(refused(flight, error), death=1)


def _looked_up_ms(transport: str) -> int:
    """How long it takes to ask the engine for the last time. A resend waits for that, and a find withdraws it."""
    seconds: list[float] = settings.WAQUEUE_LOOK_UP_SECONDS
    if not seconds or transport not in registry.looking_up():
        return 0
    return int((seconds[-1] + LOOK_UP_SECONDS) * 1000)


def backoff_ms(attempts: int) -> int:
    """The wait after `attempts` tries: exponential with full jitter, so that many do not come back at once."""
    ceiling = min(_BACKOFF_CEILING_MS, _BACKOFF_BASE_MS * 2 ** min(attempts - 1, 20))
    return random.randint(0, ceiling)  # noqa: S311 (spreads load, guards nothing)
