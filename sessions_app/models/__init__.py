"""The rows of waqueue. One file per aggregate; PostgreSQL is the truth."""

from sessions_app.models.api_key import ApiKey, Scope
from sessions_app.models.attempt import (
    IN_DOUBT,
    MAY_HAVE_ARRIVED,
    NEWEST_TOKEN,
    TOKEN_SEQUENCE,
    Attempt,
    InFlight,
    Outcome,
)
from sessions_app.models.audit import AuditEntry
from sessions_app.models.batch import Batch, BatchState
from sessions_app.models.deployment import Deployment
from sessions_app.models.event import Event, EventKind
from sessions_app.models.idempotency import IdempotencyKey
from sessions_app.models.loopback import LoopbackEntry
from sessions_app.models.message import (
    ACCEPTED,
    FINAL,
    OPEN,
    UNSENT,
    Message,
    MessageType,
    Priority,
    Status,
    new_id,
)
from sessions_app.models.mirrored import Mirrored, read_mirrored
from sessions_app.models.orphan import UNRESOLVED, Orphan, OrphanEntry, OrphanSource, OrphanState
from sessions_app.models.receipt import LookUp, LookUpOutcome, Receipt, ReceiptSource, ReceiptStage
from sessions_app.models.reconciliation import (
    FAILED_ACTION,
    FINISHED,
    NOTES,
    FindingKind,
    Reconciliation,
    ReconciliationFinding,
    ReconciliationOutcome,
    Trigger,
)
from sessions_app.models.session import (
    PROBED_HOLDS,
    DesiredState,
    Hold,
    ObservedState,
    OnUncertain,
    RecipientPace,
    Session,
    SessionCounter,
    SessionDispatch,
)
from sessions_app.models.task import BackgroundTask, TaskState
from sessions_app.models.worker import Worker

__all__ = [
    "ACCEPTED",
    "FAILED_ACTION",
    "FINAL",
    "FINISHED",
    "IN_DOUBT",
    "MAY_HAVE_ARRIVED",
    "NEWEST_TOKEN",
    "NOTES",
    "OPEN",
    "PROBED_HOLDS",
    "TOKEN_SEQUENCE",
    "UNRESOLVED",
    "UNSENT",
    "ApiKey",
    "Attempt",
    "AuditEntry",
    "BackgroundTask",
    "Batch",
    "BatchState",
    "Deployment",
    "DesiredState",
    "Event",
    "EventKind",
    "FindingKind",
    "Hold",
    "IdempotencyKey",
    "InFlight",
    "LookUp",
    "LookUpOutcome",
    "LoopbackEntry",
    "Message",
    "MessageType",
    "Mirrored",
    "ObservedState",
    "OnUncertain",
    "Orphan",
    "OrphanEntry",
    "OrphanSource",
    "OrphanState",
    "Outcome",
    "Priority",
    "Receipt",
    "ReceiptSource",
    "ReceiptStage",
    "RecipientPace",
    "Reconciliation",
    "ReconciliationFinding",
    "ReconciliationOutcome",
    "Scope",
    "Session",
    "SessionCounter",
    "SessionDispatch",
    "Status",
    "TaskState",
    "Trigger",
    "Worker",
    "new_id",
    "read_mirrored",
]
