"""What a comparison found: plain data, without printing and without acting."""

from collections import Counter
from dataclasses import dataclass, field

from sessions_app.models import FAILED_ACTION, NOTES, FindingKind, Orphan, Session


@dataclass(slots=True)
class Finding:
    """One thing that is not as it should be. `action` says what was done about it; empty for nothing."""

    kind: FindingKind
    queue: str = ""
    session: str = ""
    messages: int = 0
    action: str = ""
    detail: str = ""
    # What the repair needs and nobody is shown.
    key: bytes = b""
    row: Session | None = None
    orphan: Orphan | None = None

    @property
    def was_put_right(self) -> bool:
        """Whether something was done about it."""
        return self.action not in ("", FAILED_ACTION)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be done: repaired, archived, or only a note."""
        return self.was_put_right or (not self.action and self.kind in NOTES)


@dataclass(slots=True)
class Report:
    """All findings of one run. Where it is `stopped`, this Redis is not ours to put right; only the reason is in it."""

    findings: list[Finding] = field(default_factory=list)
    stopped: bool = False
    # Lists that are no queues, left behind by a rebuild: no finding, for no message is concerned.
    leftovers: set[bytes] = field(default_factory=set)

    def add(self, kind: FindingKind, **what: object) -> Finding:
        """Add one finding."""
        finding = Finding(kind, **what)  # type: ignore[arg-type]
        self.findings.append(finding)
        return finding

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        return dict(Counter(finding.kind.value for finding in self.findings))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be done."""
        return all(finding.is_settled for finding in self.findings)
