"""Lists that stay fast over millions of rows: newest first, never counted, turned over by key. And their filters."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import QuerySet, TextChoices
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from sessions_app.admin.base import PageAdmin
from sessions_app.models import Session

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

BEFORE = "before"
# Names offered while one is typed. Any other name can be typed all the same.
_OFFERED_NAMES = 200


class NewestFirstChangeList(ChangeList):
    """A page of rows older than `?before=<key>`. It asks for one row more than it shows instead of counting."""

    has_more = False
    is_newest = True
    older_url = ""
    newest_url = ""

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """All filters; where the page begins is none."""
        found = super().get_filters_params(params)
        found.pop(BEFORE, None)
        return found

    def get_query_string(self, new_params: dict[str, Any] | None = None, remove: Any = None) -> str:
        """An address whose list begins with the newest row, unless `new_params` says where."""
        return super().get_query_string({BEFORE: None, **(new_params or {})}, remove)

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """By key alone, whatever the address says: it is an index, and ids sort by time."""
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        """Read one page, and whether there are older rows."""
        rows = self.queryset
        if before := self.params.pop(BEFORE, ""):
            try:
                rows = rows.filter(pk__lt=self.opts.pk.to_python(before))
            except ValidationError as error:
                raise IncorrectLookupParameters(error) from error
        found = list(rows[: self.list_per_page + 1])
        self.has_more = len(found) > self.list_per_page
        self.is_newest = not before
        self.result_list = found[: self.list_per_page]
        self.newest_url = self.get_query_string()
        if self.has_more:
            self.older_url = self.get_query_string({BEFORE: self.result_list[-1].pk})
        self.result_count = len(self.result_list)
        self.full_result_count = None if self.query and not self.has_more else self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = bool(self.result_list)
        self.can_show_all = self.multi_page = False
        self.paginator = Paginator(self.result_list, self.list_per_page)


class NewestFirstMixin(PageAdmin):
    """A page that lists with NewestFirstChangeList."""

    sortable_by = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list that never counts."""
        return NewestFirstChangeList


class ChoiceFilter(SimpleListFilter):
    """By a column of that name that holds one of `values`. What is none of them filters nothing."""

    values: Iterable[TextChoices] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """All of them, in their order."""
        return [(choice.value, choice.label) for choice in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Rows with that value."""
        chosen = self.value()
        is_known = chosen in [choice.value for choice in self.values]
        return queryset.filter(**{str(self.parameter_name): chosen}) if is_known else None


class SessionNameFilter(SimpleListFilter):
    """By session, typed: a list of thousands of links helps nobody. It finds deleted sessions of that name too."""

    title = _("session")
    parameter_name = "session"
    template = "admin/sessions_app/filter_session.html"
    names: list[str]
    kept: list[tuple[str, str]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, "StrOrPromise"]]:
        """The names that are offered."""
        self.names = list(Session.objects.alive().order_by("name").values_list("name", flat=True)[:_OFFERED_NAMES])
        return []

    def has_output(self) -> bool:
        """Even where nothing is offered a name can be typed."""
        return True

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """The way back to all sessions; the rest is the form's."""
        self.kept = [(name, value) for name, value in changelist.params.items() if name != self.parameter_name]
        yield {
            "selected": not self.value(),
            "query_string": changelist.get_query_string(remove=[str(self.parameter_name)]),
            "display": _("All"),
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Rows of these sessions, by their keys: that is what the indexes begin with."""
        name = (self.value() or "").strip().replace("\0", "")
        if not name:
            return None
        return self.narrow(queryset, name)

    def narrow(self, queryset: QuerySet[Any], name: str) -> QuerySet[Any]:
        """Rows whose `session` is one of that name."""
        keys = list(Session.objects.filter(name=name).values_list("pk", flat=True))
        return queryset.filter(session__in=keys)


class SinceFilter(SimpleListFilter):
    """By the last hour, day, week or month."""

    title = _("time")
    parameter_name = "since"
    spans = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, "StrOrPromise"]]:
        """The spans."""
        return [
            ("1h", _("Last hour")),
            ("24h", _("Last 24 hours")),
            ("7d", _("Last 7 days")),
            ("30d", _("Last 30 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Rows written since then."""
        span = self.spans.get(self.value() or "")
        return None if span is None else self.narrow(queryset, timezone.now() - span)

    def narrow(self, queryset: QuerySet[Any], since: datetime) -> QuerySet[Any]:
        """Rows created since `since`."""
        return queryset.filter(created_at__gte=since)


class SinceByKeyFilter(SinceFilter):
    """The same for rows whose key is a UUIDv7: the key itself says when, and is an index."""

    def narrow(self, queryset: QuerySet[Any], since: datetime) -> QuerySet[Any]:
        """Rows whose key was made since `since`."""
        return queryset.filter(pk__gte=first_key_of(since))


def first_key_of(at: datetime) -> uuid.UUID:
    """The lowest UUIDv7 that can have been made at `at`."""
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80 | 0x7 << 76 | 0x2 << 62)
