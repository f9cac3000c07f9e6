"""The ready-made groups. They are made once; what people change about them afterwards stays as they left it.

In receivers and not in a data migration: permissions only exist once all migrations have run, and a test that empties
the database gets its groups back. A permission that a later version brings is given to the groups it is meant for when
it first appears, and never again: one that was taken away from a group stays away.
"""

from typing import Any

from django.apps import apps as global_apps
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

VIEWER = "Viewer"
OPERATOR = "Operator"
ADMINISTRATOR = "Administrator"

_VIEW = {
    "view_session", "view_message", "view_worker", "view_loopbackentry", "view_event", "view_orphan",
    "view_reconciliation", "view_backgroundtask", "view_batch",
}  # fmt: skip
_OPERATE = {
    "operate_session", "operate_message", "operate_batch", "view_message_content", "restore_orphan",
    "run_reconciliation",
}  # fmt: skip
_ADMINISTER = {
    "add_session", "change_session", "delete_session", "view_apikey", "manage_apikey", "view_auditentry",
    "purge_orphan",
}  # fmt: skip

# People and groups themselves stay with superusers: whoever may edit a user could make himself one.
GROUPS: dict[str, set[str]] = {
    VIEWER: _VIEW,
    OPERATOR: _VIEW | _OPERATE,
    ADMINISTRATOR: _VIEW | _OPERATE | _ADMINISTER,
}

# The permissions of the app before this run of migrate, by database.
_known: dict[str, set[str]] = {}


def connect(sender: Any) -> None:
    """Keep the groups whenever the database is migrated. Called by the app's `ready()`, with its config."""
    pre_migrate.connect(_remember, sender=sender, dispatch_uid="waqueue.groups.remember")
    post_migrate.connect(_provide, sender=sender, dispatch_uid="waqueue.groups.provide")


def _permissions(apps: Any, using: str) -> Any:
    model = apps.get_model("auth", "Permission")
    return model.objects.using(using).filter(content_type__app_label="sessions_app")


def _remember(using: str, **kwargs: Any) -> None:
    tables = connections[using].introspection.table_names()
    has_permissions = {"auth_permission", "django_content_type"} <= set(tables)
    known = _permissions(global_apps, using).values_list("codename", flat=True) if has_permissions else ()
    _known[using] = set(known)


def _provide(using: str, apps: Any = global_apps, **kwargs: Any) -> None:
    try:
        groups = apps.get_model("auth", "Group").objects.using(using)
    except LookupError:
        # Migrated back to before there were groups.
        return
    by_name = {permission.codename: permission for permission in _permissions(apps, using)}
    known = _known.pop(using, set())
    for name, wanted in GROUPS.items():
        group, is_new = groups.get_or_create(name=name)
        given = wanted & set(by_name) if is_new else (wanted & set(by_name)) - known
        group.permissions.add(*(by_name[codename] for codename in sorted(given)))
