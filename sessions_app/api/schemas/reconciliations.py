"""Reconciliations as clients read them."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from sessions_app.api.pagination import Page
from sessions_app.api.schemas.fields import RequestBody, Text, UtcTime
from sessions_app.models import Reconciliation, ReconciliationFinding


class ReconciliationIn(RequestBody):
    """A run that is asked for."""

    dry_run: bool = Field(False, description="Only say what would be found.")
    # An empty name would be kept as that of a run over everything, a longer one could not be kept.
    session: Text | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Look only at what bears this name: a session's or an orphan's.",
    )


class FindingOut(BaseModel):
    """One thing that was found, and what was done about it."""

    kind: str = Field(examples=["orphan_queue"])
    queue: str | None
    session: str | None
    messages: int
    action: str | None = Field(description="null when nothing was done.")
    detail: str | None

    @classmethod
    def of(cls, finding: ReconciliationFinding) -> "FindingOut":
        """Return one finding."""
        return cls(
            kind=finding.kind, queue=finding.queue or None, session=finding.session or None,
            messages=finding.messages, action=finding.action or None, detail=finding.detail or None,
        )  # fmt: skip


class ReconciliationOut(BaseModel):
    """One run."""

    id: int
    trigger: Literal["startup", "timer", "command", "admin", "api"]
    dry_run: bool
    session: str | None = Field(description="The only session that it looked at; null when it looked at all.")
    started_at: UtcTime
    finished_at: UtcTime | None
    outcome: Literal["running", "clean", "repaired", "findings", "failed"] = Field(
        description="`repaired` left nothing to be done, `findings` something."
    )
    counts: dict[str, int] = Field(description="Findings by kind.")
    findings: list[FindingOut] = Field(
        description="In a list of runs the first 100 of each: `counts` says how many there were."
    )

    @classmethod
    def of(cls, run: Reconciliation, findings: Sequence[ReconciliationFinding] | None = None) -> "ReconciliationOut":
        """Return a run with these of its findings, or with all."""
        shown = run.findings.all() if findings is None else findings
        return cls(
            id=run.pk, trigger=run.trigger, dry_run=run.dry_run,  # type: ignore[arg-type]
            session=run.session_name or None, started_at=run.started_at, finished_at=run.finished_at,
            outcome=run.outcome, counts=run.counts,  # type: ignore[arg-type]
            findings=[FindingOut.of(finding) for finding in shown],
        )  # fmt: skip


class ReconciliationPage(Page[ReconciliationOut]):
    """Runs, newest first."""
