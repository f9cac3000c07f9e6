"""The page of workers: which processes send, and which fell silent."""

from typing import Any

from django.contrib import admin
from django.db.models import Case, CharField, QuerySet, Value, When
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from sessions_app.admin import words
from sessions_app.admin.base import ListOnlyAdmin
from sessions_app.models import Worker
from sessions_app.models.worker import SILENCE


class WorkerStateFilter(admin.SimpleListFilter):
    """By whether they are alive."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The states."""
        return [
            ("alive", gettext_lazy("alive")),
            ("gone", gettext_lazy("gone without a word")),
            ("stopped", gettext_lazy("stopped in order")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Workers in that state."""
        return queryset.filter(state=self.value()) if self.value() else None


@admin.register(Worker)
class WorkerAdmin(ListOnlyAdmin):
    """Worker processes."""

    position = 30
    list_display = ("name", "condition", "hostname", "pid", "beat", "in_flight", "settled", "began")
    list_filter = (WorkerStateFilter,)
    search_fields = ("name", "hostname")
    search_help_text = gettext_lazy("A part of the name or of the host.")
    empty_state = gettext_lazy(
        "No worker was ever started, so nothing is sent. "
        "Start one: python manage.py rqworker (make run starts one, too)."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their state, judged by the database's own clock."""
        found: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                state=Case(
                    When(stopped_at__isnull=False, then=Value("stopped")),
                    When(heartbeat_at__gt=Now() - SILENCE, then=Value("alive")),
                    default=Value("gone"),
                    output_field=CharField(),
                )
            )
        )
        return found

    @admin.display(description=gettext_lazy("state"))
    def condition(self, worker: Any) -> SafeString:
        """Alive, gone without a word, or stopped in order."""
        texts = {
            "alive": (words.OK, _("alive")),
            "gone": (words.BAD, _("gone without a word")),
            "stopped": (words.OFF, _("stopped in order")),
        }
        return words.badge(*texts[worker.state])

    @admin.display(description=gettext_lazy("heartbeat"), ordering="heartbeat_at")
    def beat(self, worker: Worker) -> SafeString:
        """When it was last heard of."""
        return words.moment(worker.heartbeat_at)

    @admin.display(description=gettext_lazy("started"), ordering="started_at")
    def began(self, worker: Worker) -> SafeString:
        """When it was started."""
        return words.moment(worker.started_at)
