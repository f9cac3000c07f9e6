"""The forms of a session, made from what its transport declares. What does not fit is told beside its own field."""

from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from django import forms
from django.contrib.admin.widgets import AdminTextInputWidget
from django.utils.html import conditional_escape
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from sessions_app.exceptions import InvalidInput
from sessions_app.models import OnUncertain, Session
from sessions_app.services.pacing import Pacing
from sessions_app.transports.base import ConfigField, Transport

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

_CONFIG = "config_"
PACING_FIELDS = (
    "min_interval_ms", "max_interval_ms", "per_recipient_ms", "hourly_cap", "daily_cap",
    "quiet_start", "quiet_end", "quiet_tz",
)  # fmt: skip
# Services speak of fields as the API does. Where its words are not a person's, these are said instead.
_OWN_NAMES = {"pacing.quiet_hours": "quiet_end", "pacing.quiet_hours.tz": "quiet_tz"}
_OWN_WORDS: dict[str, "StrOrPromise"] = {
    "pacing.min_interval_ms": _("A day at most: 86400000."),
    "pacing.per_recipient_ms": _("A day at most: 86400000."),
    "pacing.hourly_cap": _("A million at most."),
    "pacing.daily_cap": _("A million at most."),
    "pacing.max_interval_ms": _("The longest wait is a day at most, and not less than the least wait."),
    "pacing.quiet_hours": _("Quiet hours need a start and an end that differ. To be quiet all day, pause the session."),
    "pacing.quiet_hours.tz": _("This is not the name of a time zone."),
    "name": _("A name is 1 to 64 of A-Z a-z 0-9 _ . - and starts with a letter or a digit."),
}


def _number(name: str, help_text: "StrOrPromise" = "") -> forms.IntegerField:
    field: Any = Session._meta.get_field(name)
    label = capfirst(field.verbose_name)
    widget = forms.NumberInput(attrs={"inputmode": "numeric"})
    return forms.IntegerField(label=label, min_value=0, help_text=help_text, widget=widget)


class SessionForm(forms.Form):
    """What may be changed of a session at any time: its pace, its policy, its transport's settings."""

    min_interval_ms = _number(
        "min_interval_ms",
        _("Between two messages; the wait is random from the least to the longest. 3000 is 3 seconds."),
    )
    max_interval_ms = _number("max_interval_ms")
    per_recipient_ms = _number("per_recipient_ms", _("Between two messages to the same phone."))
    hourly_cap = _number(
        "hourly_cap",
        _(
            "At most so many in an hour that begins with its first message; the next hour begins with the first one "
            "after it. So up to twice as many may go within an hour across the border. 0 is no limit."
        ),
    )
    daily_cap = _number(
        "daily_cap",
        _("At most so many in 24 hours that begin with their first message, as with the hour. 0 is no limit."),
    )
    quiet_start = forms.TimeField(
        label=_("Quiet from"), required=False, widget=forms.TimeInput(format="%H:%M", attrs={"type": "time"})
    )
    quiet_end = forms.TimeField(
        label=_("Quiet until"), required=False, widget=forms.TimeInput(format="%H:%M", attrs={"type": "time"})
    )
    quiet_tz = forms.ChoiceField(label=_("Time zone of the quiet hours"), required=False)
    on_uncertain = forms.ChoiceField(
        label=_("When uncertain"),
        choices=OnUncertain.choices,
        widget=forms.RadioSelect,
        help_text=_(
            "What becomes of a message of which nobody knows whether it was sent. Sent again, it may come twice."
        ),
    )

    def __init__(self, transport: type[Transport], *args: Any, session: Session | None = None, **kwargs: Any) -> None:
        self.transport = transport
        self.session = session
        super().__init__(*args, **kwargs)
        zones = sorted(available_timezones())
        zone: Any = self.fields["quiet_tz"]
        zone.choices = [("", "UTC"), *((name, name) for name in zones if name != "UTC")]
        for setting in transport.fields:
            self.fields[_CONFIG + setting.name] = _form_field(setting, is_kept=session is not None)

    @classmethod
    def initial_of(cls, transport: type[Transport], session: Session | None) -> dict[str, Any]:
        """What the form shows first: the session's own values, or what the transport advises for a new one."""
        if session is None:
            pacing, config, policy = Pacing(**transport.default_pacing), {}, str(OnUncertain.HOLD)
        else:
            pacing, config, policy = Pacing.of(session), transport.public_config(session.config), session.on_uncertain
        shown: dict[str, Any] = {name: getattr(pacing, name) for name in PACING_FIELDS}
        for setting in transport.fields:
            if not setting.secret:
                shown[_CONFIG + setting.name] = config.get(setting.name, setting.default)
        return shown | {"on_uncertain": policy}

    @property
    def pacing(self) -> Pacing:
        """The pace that was asked for."""
        return Pacing(**{name: self.cleaned_data[name] for name in PACING_FIELDS})

    @property
    def config(self) -> dict[str, Any]:
        """The transport's settings. A secret that was left empty is left as it is."""
        values = {setting: self.cleaned_data[_CONFIG + setting.name] for setting in self.transport.fields}
        return {
            setting.name: setting.default if value is None else value
            for setting, value in values.items()
            if not (setting.secret and not value)
        }

    def refuse(self, error: InvalidInput) -> None:
        """Show what a service did not accept beside the field that it names."""
        for entry in error.errors:
            named = entry["field"]
            name = _OWN_NAMES.get(named, named.removeprefix("pacing."))
            if named.startswith("config."):
                name = _CONFIG + named.removeprefix("config.")
            # A transport marks what it says of its own settings for translation.
            words = _OWN_WORDS.get(named) or gettext(entry["message"])
            if name in self.fields:
                self.add_error(name, words)
            else:
                self.add_error(None, f"{named}: {words}")

    def fieldsets(self) -> list[tuple[Any, dict[str, Any]]]:
        """The groups of fields as the page shows them."""
        config = [_CONFIG + setting.name for setting in self.transport.fields]
        own = [name for name in ("name", "start_paused") if name in self.fields]
        return [
            *([(None, {"fields": own})] if own else []),
            *([(gettext(self.transport.title), {"fields": config})] if config else []),
            (_("Pace"), {"fields": [*PACING_FIELDS[:5], ("quiet_start", "quiet_end"), "quiet_tz"]}),
            (_("Uncertain messages"), {"fields": ["on_uncertain"]}),
        ]


class NewSessionForm(SessionForm):
    """The same with a name, which never changes afterwards."""

    name = forms.CharField(
        label=_("Name"),
        max_length=64,
        widget=AdminTextInputWidget(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
        help_text=_("Letters, digits and _ . - only, like ventas-lima. It is the name that clients send to, for good."),
    )
    start_paused = forms.BooleanField(
        label=_("Start paused"),
        required=False,
        help_text=_("It keeps what it is given and sends nothing until somebody resumes it."),
    )


def _form_field(setting: ConfigField, *, is_kept: bool) -> forms.Field:
    """One setting of a transport as a form field."""
    # Django's admin shows help texts as HTML.
    common: dict[str, Any] = {
        "label": setting.name.replace("_", " ").capitalize(),
        # Marked for translation where the transport declares it.
        "help_text": capfirst(conditional_escape(gettext(setting.help))),
        "required": setting.required and not (setting.secret and is_kept),
    }
    if setting.secret:
        if is_kept:
            keep = gettext("Leave it empty to keep the present one.")
            common["help_text"] = f"{common['help_text']}. {keep}"
        widget = forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"})
        return forms.CharField(widget=widget, strip=False, **common)
    if setting.choices:
        return forms.ChoiceField(choices=[(choice, choice) for choice in setting.choices], **common)
    if setting.type is bool:
        return forms.BooleanField(**common | {"required": False})
    if setting.type in (int, float):
        common |= {"min_value": setting.minimum, "max_value": setting.maximum}
        if setting.type is int:
            return forms.IntegerField(**common)
        return forms.FloatField(widget=forms.NumberInput(attrs={"step": "any"}), **common)
    return forms.CharField(widget=AdminTextInputWidget(), **common)
