"""Django's own pages of people and groups, with an audit entry for each change: who may do what is an act, too."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from sessions_app.admin.base import actor_of
from sessions_app.services import audit

if TYPE_CHECKING:
    from sessions_app.admin.base import StockModelAdmin as Base

    StockUserAdmin = UserAdmin[User]
else:
    Base, StockUserAdmin = object, UserAdmin


class AuditedMixin(Base):
    """Whatever Django writes into its own log is written into the audit as well."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Audit that it was added."""
        audit.record(actor_of(request), f"add {self.opts.model_name}", str(obj))
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Audit which fields were changed."""
        audit.record(actor_of(request), f"change {self.opts.model_name}", str(obj), fields=_fields(message))
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Audit that they were deleted."""
        with transaction.atomic():
            for obj in queryset:
                audit.record(actor_of(request), f"delete {self.opts.model_name}", str(obj))
        return super().log_deletions(request, queryset)


def _fields(message: Any) -> list[str]:
    """The names of the changed fields in one of Django's change messages."""
    if not isinstance(message, list):
        return ["password"]
    changes = [part.get("changed", {}) for part in message if isinstance(part, dict)]
    return [str(name) for change in changes for name in change.get("fields", ())]


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class AuditedUserAdmin(AuditedMixin, StockUserAdmin):
    """People."""


@admin.register(Group)
class AuditedGroupAdmin(AuditedMixin, GroupAdmin):
    """Groups."""
