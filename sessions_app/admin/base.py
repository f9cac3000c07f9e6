"""What all pages share: read-only unless a page says otherwise, named permissions, and empty states that help."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.utils.text import capfirst

from sessions_app.services.audit import Actor

if TYPE_CHECKING:
    from django.urls import URLPattern
    from django_stubs_ext import StrOrPromise

    StockModelAdmin = admin.ModelAdmin[Any]
else:
    StockModelAdmin = admin.ModelAdmin

APP = "sessions_app"
VIEW_CONTENT = f"{APP}.view_message_content"
OPERATE_SESSION = f"{APP}.operate_session"
OPERATE_MESSAGE = f"{APP}.operate_message"
VIEW_BATCH = f"{APP}.view_batch"
OPERATE_BATCH = f"{APP}.operate_batch"
VIEW_ORPHAN = f"{APP}.view_orphan"
RESTORE_ORPHAN = f"{APP}.restore_orphan"
PURGE_ORPHAN = f"{APP}.purge_orphan"
RUN_RECONCILIATION = f"{APP}.run_reconciliation"
MANAGE_APIKEY = f"{APP}.manage_apikey"


def actor_of(request: HttpRequest) -> Actor:
    """Whoever is logged in, as the services want to know it."""
    return Actor.from_user(request.user)


def require(request: HttpRequest, permission: str) -> None:
    """Answer 403 unless the person has `permission`. A hidden button is no lock."""
    if not request.user.has_perm(permission):
        raise PermissionDenied


class PageAdmin(StockModelAdmin):
    """Django's ModelAdmin for rows that only services write: nothing is added, changed or deleted by Django itself."""

    # The place among the pages of the app on the front page and in the sidebar.
    position = 100
    # What to do first, while there is nothing to list.
    empty_state: "StrOrPromise" = ""
    # Facets count every choice of every filter.
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    # The whole of a list on one page is nobody's wish.
    list_max_show_all = 0
    change_list_template = f"admin/{APP}/change_list.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever holds the model's view permission."""
        return request.user.has_perm(f"{APP}.view_{self.opts.model_name}")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only what a filter of this page asks: Django would let anybody probe any column, masked ones too."""
        return lookup in {getattr(entry, "parameter_name", None) for entry in self.get_list_filter(request)}

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Django's own history knows nothing of our acts: the audit does."""
        raise Http404

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, titled by what it lists."""
        context = {"title": capfirst(str(self.opts.verbose_name_plural)), "empty_state": self.empty_state}
        return super().changelist_view(request, context | (extra_context or {}))

    def row(self, request: HttpRequest, key: Any) -> Any:
        """The row of that key, for whoever may see it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, str(key))
        if row is None:
            raise Http404
        return row

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of a row. It only shows; what changes something is a button."""
        row = self.row(request, object_id)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET"])
        return self.page(request, row)

    def page(self, request: HttpRequest, row: Any) -> HttpResponse:
        """What this model's page of a row shows."""
        raise NotImplementedError

    def render(
        self, request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200
    ) -> HttpResponse:
        """A page of our own inside the admin."""
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/{APP}/{template}",
            {**self.admin_site.each_context(request), "opts": self.opts, "subtitle": None, **context},
            status=status,
        )


class ListOnlyAdmin(PageAdmin):
    """A list whose rows have no page of their own."""

    list_display_links = None
    actions = None

    def get_urls(self) -> "list[URLPattern]":
        """The list alone: a page that shows a row by itself would show what the list masks."""
        return [url for url in super().get_urls() if url.name and url.name.endswith("_changelist")]
