"""Orphans of every source for tests of the admin, made as in life: lists in Redis that a reconciliation finds."""

from typing import Any

import redis
from django.urls import reverse

from sessions_app.models import Orphan, OrphanState
from sessions_app.services import orphans
from tests.reconciliation_lab import in_order, legacy_list, run

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
