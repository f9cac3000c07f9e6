"""The addresses of reconciliations."""

from django.db.models import Prefetch
from ninja import Query, Router, Status

from sessions_app.api.auth import ApiRequest, Caller, needs
from sessions_app.api.pagination import PageParameters, broken_cursor, cut, read_cursor
from sessions_app.api.problems import ApiError, Problem
from sessions_app.api.schemas.problems import ProblemOut
from sessions_app.api.schemas.reconciliations import ReconciliationIn, ReconciliationOut, ReconciliationPage
from sessions_app.exceptions import Conflict, InvalidInput
from sessions_app.models import Reconciliation, ReconciliationFinding, Scope, Trigger
from sessions_app.reconciliation.run import AlreadyRunning, UnknownName, reconcile
from sessions_app.services import audit

router = Router(tags=["Reconciliation"])

# Of each run in a list: some have found tens of thousands.
_SHOWN_FINDINGS = 100


@router.post(
    "",
    auth=needs(Scope.MANAGE),
    response={201: ReconciliationOut, 409: ProblemOut},
    summary="Run a reconciliation",
    description="Holds Redis against PostgreSQL and puts it right; answers with the report, row by row. With `session` "
    "only what bears that name: 422 when nothing does.",
    operation_id="run_reconciliation",
)
def run(request: ApiRequest, payload: ReconciliationIn) -> Status[ReconciliationOut]:
    """Run a reconciliation now."""
    _unlimited(request.auth)
    audit.record(request.auth.actor, "run reconciliation", payload.session or "", dry_run=payload.dry_run)
    try:
        made = reconcile(Trigger.API, dry_run=payload.dry_run, session_name=payload.session)
    except AlreadyRunning as error:
        raise Conflict(str(error)) from None
    except UnknownName as error:
        raise InvalidInput([{"field": "session", "message": str(error)}]) from None
    assert made is not None  # noqa: S101 (only a start-up run is skipped)
    return Status(201, ReconciliationOut.of(made))


@router.get(
    "",
    auth=needs(Scope.READ),
    response=ReconciliationPage,
    summary="List reconciliations",
    operation_id="list_reconciliations",
)
def list_(request: ApiRequest, page: Query[PageParameters]) -> ReconciliationPage:
    """List the runs, newest first."""
    _unlimited(request.auth)
    shown = ReconciliationFinding.objects.order_by("pk")[:_SHOWN_FINDINGS]
    rows = Reconciliation.objects.prefetch_related(Prefetch("findings", shown, to_attr="shown")).order_by("-pk")
    if read := read_cursor(page.cursor, "reconciliation"):
        if not (read[1].isascii() and read[1].isdigit() and len(read[1]) < 19):
            raise broken_cursor()
        rows = rows.filter(pk__lt=int(read[1]))
    found, following = cut(rows, page.limit, "reconciliation", lambda row: row.pk)
    return ReconciliationPage(items=[ReconciliationOut.of(row, row.shown) for row in found], next=following)  # type: ignore[attr-defined]


def _unlimited(caller: Caller) -> None:
    if caller.session_ids is not None:
        raise ApiError(
            Problem.of_status(403, "This key is limited to sessions: take one that is not.", code="key_is_limited")
        )
