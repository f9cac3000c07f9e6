"""What is known at the end of a soak: what clients were promised, what the engine remembers, what the rows say."""

from dataclasses import dataclass, field
from enum import StrEnum

# What an engine says of a refusal when the session's link is down.
NOT_CONNECTED = "422"


class Answer(StrEnum):
    """What the engine said to one hand-over."""

    ACCEPTED = "accepted"
    # It said clearly that it did not take the message.
    REFUSED = "refused"
    # Nothing, or what does not say.
    UNCLEAR = "unclear"


@dataclass(slots=True)
class Entry:
    """One hand-over as the engine remembers it. Times are seconds since the epoch."""

    session: str
    text: str
    arrived_at: float
    # Whether the engine took the message, whatever it answered.
    accepted: bool = False
    # When it had answered, or the other side had gone.
    ended_at: float | None = None
    answer: Answer = Answer.UNCLEAR
    said: str = ""
    # To whom it went.
    chat: str = ""


@dataclass(slots=True)
class Promise:
    """What a client handed in. `accepted_at` is when it read the 202; None where it does not know and asks no more."""

    session: str
    text: str
    # Its place among the session's, as the client handed them in.
    number: int
    accepted_at: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as PostgreSQL has it."""

    fenced_at: float
    outcome: str
    token: int = 0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One message, as PostgreSQL has it."""

    id: str
    session: str
    text: str
    status: str
    seq: int
    priority: int = 1
    resends: int = 0
    queued_at: float | None = None
    is_scheduled: bool = False
    # After when it is not to be sent, and when it was ended for that.
    expires_at: float | None = None
    expired_at: float | None = None
    # The kinds of its events.
    told: frozenset[str] = frozenset()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Pause:
    """A session was paused: from when that was answered until somebody asked for it to go on."""

    session: str
    since: float
    until: float


@dataclass(slots=True)
class Facts:
    """All of it."""

    send_seconds: float
    promises: list[Promise] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    policies: dict[str, str] = field(default_factory=dict)
    # The least wait between two hand-overs of a session, in seconds, where it has one. It never changes.
    paces: dict[str, float] = field(default_factory=dict)
    # The same between two to one recipient.
    recipient_paces: dict[str, float] = field(default_factory=dict)
    # Of each session with a cap: when its window began, and how many hand-overs it has counted since.
    counted: dict[str, tuple[float, int]] = field(default_factory=dict)
    # Messages by id. Uncertain ones that the person had sent again, or gave up; failed ones that it had tried again.
    resent_by_person: set[str] = field(default_factory=set)
    given_up_by_person: set[str] = field(default_factory=set)
    retried_by_person: set[str] = field(default_factory=set)
    pauses: list[Pause] = field(default_factory=list)
    # What is wrong with the waqueue as a whole: of no single message.
    remains: list[str] = field(default_factory=list)
    # Messages by id that a client asked to be cancelled, whatever it was answered.
    cancelled_by_client: set[str] = field(default_factory=set)
    # From when until when the monkey was at work, and how many of its acts took effect.
    monkey_at: tuple[float, float] = (0.0, 0.0)
    effects: int = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept."""

    kind: str
    what: str
    session: str = ""
    texts: tuple[str, ...] = ()
