"""Orphans of every source, made as in life: lists in Redis that a reconciliation finds."""

from collections.abc import Iterable
from typing import Any

import redis
from django.urls import reverse

from sessions_app.models import Orphan, OrphanState
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans
from tests.reconciliation_lab import in_order, legacy_list, run, stock_queue

# The two queues of a session `gone`.
RQ, LEGACY = "rq:queue:wa:gone", "queue:gone"
HOSTILE = ("*?[x]", "../otra", "line\nbreak", "<script>alert(1)</script>", "\u202egpj", "ñandú y más", "x" * 600)


def live(client: redis.Redis, name: str = "gone", count: int = 9, **options: Any) -> Orphan:
    """A list of the old service that reconciliation has found and left where it is."""
    in_order()
    legacy_list(client, name, [f"text {at}" for at in range(count)], **options)
    run()
    return Orphan.objects.get(key=f"queue:{name}".encode(), state=OrphanState.DETECTED)


def archived(client: redis.Redis, name: str = "gone", count: int = 9, **options: Any) -> Orphan:
    """The same, copied out of Redis."""
    orphan = orphans.archive(live(client, name, count, **options))
    orphan.refresh_from_db()
    assert orphan.state == OrphanState.ARCHIVED
    return orphan


def rq_detected(client: redis.Redis, texts: Iterable[object] = range(9)) -> Orphan:
    """The RQ queue `wa:gone`, seen and left where it is."""
    stock_queue(client, "gone", texts)
    run(policy=Policy.REPORT)
    return Orphan.objects.get(key=RQ.encode(), state=OrphanState.DETECTED)


def rq_archived(client: redis.Redis, texts: Iterable[object] = range(9)) -> Orphan:
    """The RQ queue `wa:gone`, which reconciliation has copied out of Redis."""
    stock_queue(client, "gone", texts)
    run()
    return Orphan.objects.get(key=RQ.encode(), state=OrphanState.ARCHIVED)


def orphan_url(what: str, orphan: Orphan) -> str:
    """The address of one of an orphan's own pages."""
    return reverse(f"admin:sessions_app_orphan_{what}", args=[orphan.pk])


def preview(client: Any, orphan: Orphan, **wish: Any) -> Any:
    """The page that says what will happen."""
    return client.get(orphan_url("restore", orphan), {"preview": "1", **wish})


def answer(response: Any, **changes: str) -> dict[str, Any]:
    """The fields of the form that says yes to a preview."""
    wish = response.context["wish"]
    return {**dict(wish.hidden), "expected": str(response.context["expected"]), "preview": "1", **changes}
