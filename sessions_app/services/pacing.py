"""Pacing as the API and the admin speak of it."""

from dataclasses import dataclass
from datetime import time
from zoneinfo import ZoneInfo

from sessions_app.exceptions import InvalidInput
from sessions_app.models import Session

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How fast a session may send. Durations in milliseconds, caps in messages; 0 or None is no limit."""

    min_interval_ms: int = 0
    max_interval_ms: int = 0
    per_recipient_ms: int = 0
    hourly_cap: int = 0
    daily_cap: int = 0
    quiet_start: time | None = None
    quiet_end: time | None = None
    quiet_tz: str = ""

    def problems(self) -> list[dict[str, str]]:
        """What does not fit, as `{"field", "message"}`."""
        found = []
        for name in ("min_interval_ms", "max_interval_ms", "per_recipient_ms"):
            if not 0 <= getattr(self, name) <= _DAY_MS:
                found.append({"field": f"pacing.{name}", "message": f"0 to {_DAY_MS} milliseconds (a day)"})
        for name in ("hourly_cap", "daily_cap"):
            if not 0 <= getattr(self, name) <= 1_000_000:
                found.append({"field": f"pacing.{name}", "message": "0 (no cap) to 1000000 messages"})
        if self.max_interval_ms < self.min_interval_ms:
            found.append({"field": "pacing.max_interval_ms", "message": "not less than pacing.min_interval_ms"})
        if (self.quiet_start is None) != (self.quiet_end is None):
            found.append({"field": "pacing.quiet_hours", "message": "needs both start and end, like 21:00 and 07:00"})
        if self.quiet_start is not None and self.quiet_start == self.quiet_end:
            found.append({"field": "pacing.quiet_hours", "message": "start and end differ: pause the session instead"})
        if self.quiet_tz:
            try:
                ZoneInfo(self.quiet_tz)
            except (KeyError, ValueError, OSError):
                found.append(
                    {"field": "pacing.quiet_hours.tz", "message": "the name of a time zone, like America/Lima"}
                )
        return found

    def apply(self, session: Session) -> None:
        """Write this pacing onto `session`. Raises InvalidInput when it does not fit."""
        if found := self.problems():
            raise InvalidInput(found)
        for name in self.__slots__:
            setattr(session, name, getattr(self, name))

    @classmethod
    def of(cls, session: Session) -> "Pacing":
        """The pacing of `session`."""
        return cls(**{name: getattr(session, name) for name in cls.__slots__})
