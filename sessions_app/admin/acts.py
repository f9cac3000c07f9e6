"""Acts: show what will happen to what, ask, check again, act, and say how many.

The bulk actions of a list and the buttons of a page are the same acts. A button is a link to the question; only the
answer to the question, a POST, changes anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import BooleanField, Case, Q, QuerySet, Value, When
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from sessions_app.admin.base import APP, PageAdmin, require

if TYPE_CHECKING:
    from django.urls import URLPattern
    from django_stubs_ext import StrOrPromise

# Rows in one go: each is its own transaction, and the person waits for all of them.
MOST_AT_ONCE = 500
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One thing that a person may do to rows of a model.

    `question` and `report` are plural forms with `%d`. `fits` says which rows it makes sense for: it is asked when the
    question is shown, and again when the act happens.
    """

    name: str
    label: "StrOrPromise"
    permission: str
    question: Any
    report: Any
    effect: "StrOrPromise"
    fits: Q
    is_grave: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many rows an act changed, and how many it left alone because they had changed meanwhile.

    `doubted` became uncertain instead of what the act says: they may have arrived before.
    """

    done: int
    refused: int = 0
    doubted: int = 0


@dataclass(frozen=True, slots=True)
class Button:
    """A link to a question."""

    label: "StrOrPromise"
    url: str
    is_grave: bool = False


class ActsMixin(PageAdmin):
    """Bulk actions and buttons out of `acts`. A page says what an act does in `perform`."""

    acts: Sequence[Act] = ()
    # Whether a row has a page of its own to come back to.
    has_row_pages = True
    confirm_columns: Sequence["StrOrPromise"] = ()

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """Do it to the rows of `keys` that still fit."""
        raise NotImplementedError

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """The cells of some rows on the page that asks."""
        return [(str(row),) for row in rows]

    def warning(self, act: Act, rows: Sequence[Any]) -> str:
        """What else there is to know before one says yes to these rows."""
        return ""

    def confirm_extra(self, request: HttpRequest, act: Act, rows: Sequence[Any]) -> dict[str, Any]:
        """What else the page that asks needs: `hidden`, pairs that come back with the answer; `typed`, to be typed."""
        return {}

    def objection(self, request: HttpRequest, act: Act) -> str:
        """Why the answer is none, before anything is done; empty when it is."""
        return ""

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """The acts that this person may do; none of Django's own."""
        return {
            act.name: (_asks(act), act.name, f"{act.label}…")
            for act in self.acts
            if request.user.has_perm(act.permission)
        }

    def buttons(self, request: HttpRequest, row: Any) -> list[Button]:
        """The acts that this person may do to this row as it is now."""
        allowed = [act for act in self.acts if request.user.has_perm(act.permission)]
        if not allowed:
            return []
        fits = self.model._default_manager.filter(pk=row.pk).values_list(
            *(Case(When(act.fits, then=Value(True)), default=False, output_field=BooleanField()) for act in allowed)
        )
        return [
            Button(act.label, f"{self._act_url(act)}?{urlencode({'ids': row.pk})}", act.is_grave)
            for act, is_fitting in zip(allowed, fits.get(), strict=True)
            if is_fitting
        ]

    def get_urls(self) -> "list[URLPattern]":
        """One address for each act, before Django's own, which take anything for a key."""
        view = self.admin_site.admin_view(self.act_view)
        return [path("act/<slug:name>/", view, name=f"{APP}_{self.opts.model_name}_act"), *super().get_urls()]

    def act_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask on GET and on a first POST; act on a POST that says yes."""
        act = next((act for act in self.acts if act.name == name), None)
        if act is None:
            raise Http404
        require(request, act.permission)
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD", "POST"):
            return HttpResponseNotAllowed(["GET", "POST"])
        source = request.POST if request.method == "POST" else request.GET
        keys = self._keys(",".join(source.getlist("ids")))
        if request.method == "POST" and request.POST.get("confirmed") == "yes":
            if objection := self.objection(request, act):
                self.message_user(request, objection, messages.ERROR)
                return self.ask_about(
                    request, act, self.get_queryset(request).filter(pk__in=keys), self._back(request, keys)
                )
            self.report(request, act, self.perform(request, act, keys))
            return HttpResponseRedirect(self._back(request, keys))
        return self.ask_about(request, act, self.get_queryset(request).filter(pk__in=keys), self._back(request, keys))

    def ask_about(
        self,
        request: HttpRequest,
        act: Act,
        chosen: QuerySet[Any],
        back: str,
        *,
        url: str = "",
        most: int = MOST_AT_ONCE,
    ) -> HttpResponse:
        """The page that says what will happen to which of the rows chosen, and asks."""
        require(request, act.permission)
        fitting = list(chosen.filter(act.fits)[: most + 1])
        has_more = len(fitting) > most
        del fitting[most:]
        others = 0 if has_more else chosen.exclude(pk__in=[row.pk for row in fitting])[: most + 1].count()
        return self.render(
            request,
            "confirm.html",
            {
                "title": act.question % len(fitting) if fitting else act.label,
                "act": act,
                "act_url": url or self._act_url(act),
                "ids": ",".join(str(row.pk) for row in fitting),
                "count": len(fitting),
                "columns": self.confirm_columns,
                "rows": self.confirm_rows(request, fitting[:_SHOWN]),
                "unshown": max(0, len(fitting) - _SHOWN),
                "warning": self.warning(act, fitting),
                "others": 0 if url else others,
                "has_more": has_more,
                "most": most,
                "back": back,
                **self.confirm_extra(request, act, fitting),
            },
        )

    def report(self, request: HttpRequest, act: Act, outcome: Outcome) -> None:
        """Tell the person how many were done, and how many were not."""
        if outcome.done or not (outcome.refused or outcome.doubted):
            self.message_user(request, act.report % outcome.done, messages.SUCCESS)
        if outcome.doubted:
            text = ngettext(
                "%d became uncertain instead: nobody knows whether it arrived before.",
                "%d became uncertain instead: nobody knows whether they arrived before.",
                outcome.doubted,
            )
            self.message_user(request, text % outcome.doubted, messages.WARNING)
        if outcome.refused:
            text = ngettext(
                "%d was left alone: its state had changed meanwhile.",
                "%d were left alone: their state had changed meanwhile.",
                outcome.refused,
            )
            self.message_user(request, text % outcome.refused, messages.WARNING)

    def _keys(self, text: str) -> list[Any]:
        """The primary keys in `text`. What is no key at all names nothing."""
        try:
            keys = [self.opts.pk.to_python(part) for part in text.split(",") if part]
        except ValidationError:
            raise Http404 from None
        if len(keys) > MOST_AT_ONCE:
            raise PermissionDenied(_("At most %d in one go.") % MOST_AT_ONCE)
        return list(dict.fromkeys(keys))

    def _act_url(self, act: Act) -> str:
        return reverse(f"admin:{APP}_{self.opts.model_name}_act", args=[act.name], current_app=self.admin_site.name)

    def _list_url(self) -> str:
        return reverse(f"admin:{APP}_{self.opts.model_name}_changelist", current_app=self.admin_site.name)

    def _back(self, request: HttpRequest, keys: list[Any]) -> str:
        """Where the person came from: the list as it was filtered, or the row's own page."""
        wanted = (request.POST if request.method == "POST" else request.GET).get("back", "")
        if wanted and url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}):
            return wanted
        if len(keys) == 1 and self.has_row_pages:
            return reverse(f"admin:{APP}_{self.opts.model_name}_change", args=keys, current_app=self.admin_site.name)
        return self._list_url()


def _asks(act: Act) -> Callable[[ActsMixin, HttpRequest, QuerySet[Any]], HttpResponse]:
    """The bulk action of `act`: its question about the rows that were chosen in a list."""

    def ask(page: ActsMixin, request: HttpRequest, chosen: QuerySet[Any]) -> HttpResponse:
        return page.ask_about(request, act, chosen, request.get_full_path())

    return ask
