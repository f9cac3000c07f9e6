"""The pages of API keys: the list, making one (shown once), revoking some."""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy, pgettext

from sessions_app.admin import words
from sessions_app.admin.acts import Act, ActsMixin, Outcome
from sessions_app.admin.base import MANAGE_APIKEY, actor_of
from sessions_app.exceptions import InvalidInput
from sessions_app.models import ApiKey, Scope, Session
from sessions_app.services import api_keys as service

if TYPE_CHECKING:
    from django.urls import URLPattern

REVOKE = Act(
    name="revoke",
    label=gettext_lazy("Revoke"),
    permission=MANAGE_APIKEY,
    question=ngettext_lazy("Revoke %d API key?", "Revoke %d API keys?"),
    report=ngettext_lazy("%d API key was revoked.", "%d API keys were revoked."),
    effect=gettext_lazy(
        "Whoever uses it is refused from the next request on. It cannot be undone: a new key has to be made."
    ),
    fits=Q(revoked_at=None),
    is_grave=True,
)
_SCOPES = (
    (Scope.READ.value, gettext_lazy("read: see sessions, messages and queues")),
    (Scope.SEND.value, gettext_lazy("send: hand messages in; cancel, retry and resolve them")),
    (Scope.MANAGE.value, gettext_lazy("manage: add, change and delete sessions; pause and resume them")),
)


class ApiKeyForm(forms.Form):
    """A new key."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=100,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text=gettext_lazy("Who or what will use it, to know it by later."),
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("It may"),
        choices=_SCOPES,
        initial=[Scope.READ.value, Scope.SEND.value],
        widget=forms.CheckboxSelectMultiple,
    )
    is_limited = forms.BooleanField(label=gettext_lazy("Only in the sessions chosen below"), required=False)
    sessions = forms.ModelMultipleChoiceField(
        label=gettext_lazy("Sessions"),
        queryset=Session.objects.none(),
        required=False,
        to_field_name="name",
        widget=forms.CheckboxSelectMultiple(attrs={"class": "wa-many"}),
    )
    expires_on = forms.DateField(
        label=gettext_lazy("Last day"),
        required=False,
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        help_text=gettext_lazy("Empty: it never expires."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser: Any = self.fields["sessions"]
        chooser.queryset = Session.objects.alive()

    def clean_expires_on(self) -> Any:
        """A day that is not over."""
        day = self.cleaned_data["expires_on"]
        if day is not None and day < timezone.localdate():
            raise ValidationError(_("This day is over."))
        return day

    def clean(self) -> None:
        """A limited key names its sessions, and one that names sessions is limited."""
        super().clean()
        if self.cleaned_data.get("is_limited") and not self.cleaned_data.get("sessions"):
            self.add_error("sessions", _("Choose the sessions that this key may touch."))
        if self.cleaned_data.get("sessions") and not self.cleaned_data.get("is_limited"):
            self.add_error("is_limited", _("Sessions are chosen below: tick this, or choose none."))

    @property
    def expires_at(self) -> datetime | None:
        """The end of the last day, in the site's time zone."""
        day = self.cleaned_data["expires_on"]
        if day is None:
            return None
        return timezone.make_aware(datetime.combine(day + timedelta(days=1), time.min))

    @property
    def session_names(self) -> list[str]:
        """The names of the sessions chosen."""
        return [session.name for session in self.cleaned_data["sessions"]]


@admin.register(ApiKey)
class ApiKeyAdmin(ActsMixin):
    """API keys."""

    position = 60
    acts = (REVOKE,)
    has_row_pages = False
    list_display = ("name", "prefix", "may", "touches", "used", "condition", "made")
    list_display_links = None
    search_fields = ("name", "prefix")
    search_help_text = gettext_lazy("A part of the name or of the prefix.")
    empty_state = gettext_lazy(
        "There is no API key yet. Make the first one, and give it to the program that sends messages."
    )
    confirm_columns = (gettext_lazy("Name"), gettext_lazy("Prefix"), gettext_lazy("Last used"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whoever may manage keys."""
        return request.user.has_perm(MANAGE_APIKEY)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may view or manage keys."""
        return super().has_view_permission(request, obj) or request.user.has_perm(MANAGE_APIKEY)

    def get_urls(self) -> "list[URLPattern]":
        """The list, making one, and the acts: a key has no page of its own."""
        return [url for url in super().get_urls() if url.name and url.name.endswith(("_changelist", "_add", "_act"))]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their sessions: the list says them."""
        return super().get_queryset(request).prefetch_related("sessions")

    @admin.display(description=gettext_lazy("it may"))
    def may(self, key: ApiKey) -> str:
        """Its scopes, by the names that the API has for them."""
        return ", ".join(key.scopes)

    @admin.display(description=gettext_lazy("sessions"))
    def touches(self, key: ApiKey) -> str:
        """The sessions that it may touch."""
        if not key.is_limited:
            return _("all")
        names = [session.name for session in key.sessions.all()]
        return ", ".join(names[:5]) + (f" +{len(names) - 5}" if len(names) > 5 else "") if names else _("none")

    @admin.display(description=gettext_lazy("last used"), ordering="last_used_at")
    def used(self, key: ApiKey) -> SafeString:
        """When it was last used."""
        return words.moment(key.last_used_at, empty=_("never"))

    @admin.display(description=gettext_lazy("state"))
    def condition(self, key: ApiKey) -> SafeString:
        """Whether it is accepted."""
        if key.revoked_at is not None:
            return words.badge(words.OFF, _("revoked"))
        if key.expires_at is not None and key.expires_at <= timezone.now():
            return words.badge(words.OFF, pgettext("of an API key", "expired"))
        return words.badge(words.OK, _("valid"))

    @admin.display(description=gettext_lazy("made"), ordering="created_at")
    def made(self, key: ApiKey) -> SafeString:
        """When it was made."""
        return words.moment(key.created_at)

    def confirm_rows(self, request: HttpRequest, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """Name, prefix and last use: who would notice."""
        return [(key.name, key.prefix, words.moment(key.last_used_at, empty=_("never"))) for key in rows]

    def perform(self, request: HttpRequest, act: Act, keys: list[Any]) -> Outcome:
        """Revoke those that are not revoked yet."""
        fitting = list(ApiKey.objects.filter(act.fits, pk__in=keys))
        for key in fitting:
            service.revoke(key, actor=actor_of(request))
        return Outcome(len(fitting), len(keys) - len(fitting))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Make a key, and show it in the answer to the very POST that made it: it is kept nowhere."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = ApiKeyForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                key, plain = service.create(
                    name=form.cleaned_data["name"], scopes=form.cleaned_data["scopes"],
                    session_names=form.session_names, expires_at=form.expires_at, actor=actor_of(request),
                )  # fmt: skip
            except InvalidInput as error:
                for entry in error.errors:
                    form.add_error(entry["field"] if entry["field"] in form.fields else None, entry["message"])
            else:
                made = {"title": _("Your new API key"), "key": key, "plain": plain, "back": self._list_url()}
                response = self.render(request, "apikey/made.html", made)
                response.headers["Cache-Control"] = "no-store"
                return response
        context = {
            "title": _("Make an API key"), "submit": _("Make the key"), "form": form, "back": self._list_url(),
            "adminform": AdminForm(cast("Any", form), [(None, {"fields": list(form.fields)})], {}),
        }  # fmt: skip
        return self.render(request, "apikey/form.html", context)
