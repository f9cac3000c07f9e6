"""Session: one WhatsApp number and its link; its counter; and what dispatch knows about it."""

from django.core.validators import RegexValidator
from django.db import connection, models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

SESSION_NAME = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
    _("A name is 1 to 64 of A-Z a-z 0-9 _ . - and starts with a letter or a digit."),
)


class DesiredState(models.TextChoices):
    """What the operator wants."""

    ACTIVE = "active", _("active")
    PAUSED = "paused", _("paused")
    STOPPED = "stopped", _("stopped")


class ObservedState(models.TextChoices):
    """What the engine reports."""

    STOPPED = "stopped", _("stopped")
    STARTING = "starting", _("starting")
    NEEDS_PAIRING = "needs_pairing", _("needs pairing")
    WORKING = "working", _("working")
    FAILED = "failed", _("failed")


class OnUncertain(models.TextChoices):
    """What becomes of a message of which nobody knows whether it was sent."""

    HOLD = "hold", _("that message waits for a person, the session goes on")
    HOLD_SESSION = "hold_session", _("the whole session waits for a person")
    RESEND = "resend", _("it is sent again")


class Hold(models.TextChoices):
    """Why dispatch has stopped a session by itself. The operator's own pause is `DesiredState.PAUSED`."""

    NONE = "", _("not held")
    # The link is down. Probed: it ends when the engine works again.
    NOT_CONNECTED = "not_connected", _("not connected")
    # Two uncertain outcomes in a row: the way to the engine may be broken. Probed.
    DOUBT = "doubt", _("two uncertain outcomes in a row")
    # `OnUncertain.HOLD_SESSION`: ends when a person has resolved the message, or resumes the session.
    UNCERTAIN = "uncertain", _("an uncertain message waits for a person")
    # Bad token, banned number, billing: ends when a person resumes the session.
    REFUSED = "refused", _("the engine refuses this session")


PROBED_HOLDS = (Hold.NOT_CONNECTED, Hold.DOUBT)


class SessionQuerySet(models.QuerySet["Session"]):
    def alive(self) -> "SessionQuerySet":
        """Those that were not deleted."""
        return self.filter(deleted_at=None)

    def serving(self) -> "SessionQuerySet":
        """Those that may send now, as far as people and dispatch are concerned."""
        return self.alive().filter(desired_state=DesiredState.ACTIVE, dispatch__hold=Hold.NONE)

    def held(self) -> "SessionQuerySet":
        """Those that dispatch has stopped by itself, so that somebody should look."""
        return self.alive().exclude(dispatch__hold=Hold.NONE)


class Session(models.Model):
    """One WhatsApp number and its link. Its `name` never changes; a deleted one is kept with its history."""

    name = models.CharField(_("name"), max_length=64, validators=[SESSION_NAME])
    transport = models.CharField(_("transport"), max_length=20, default="loopback")
    config = models.JSONField(_("configuration"), default=dict, blank=True)
    desired_state = models.CharField(
        _("desired state"), max_length=10, choices=DesiredState.choices, default=DesiredState.ACTIVE
    )
    observed_state = models.CharField(
        _("observed state"), max_length=15, choices=ObservedState.choices, default=ObservedState.STOPPED
    )
    observed_reason = models.CharField(_("why"), max_length=500, blank=True, default="")
    phone = models.CharField(_("phone"), max_length=16, blank=True, default="")
    on_uncertain = models.CharField(
        _("when uncertain"), max_length=12, choices=OnUncertain.choices, default=OnUncertain.HOLD
    )
    max_in_flight = models.PositiveSmallIntegerField(_("in flight at most"), default=1)

    # Pacing. Durations in milliseconds, 0 is none; the wait between two messages is random between the two intervals.
    min_interval_ms = models.PositiveIntegerField(_("least wait, ms"), default=0)
    max_interval_ms = models.PositiveIntegerField(_("longest wait, ms"), default=0)
    per_recipient_ms = models.PositiveIntegerField(_("wait per recipient, ms"), default=0)
    hourly_cap = models.PositiveIntegerField(_("messages an hour"), default=0)
    daily_cap = models.PositiveIntegerField(_("messages a day"), default=0)
    quiet_start = models.TimeField(_("quiet from"), null=True, blank=True)
    quiet_end = models.TimeField(_("quiet until"), null=True, blank=True)
    quiet_tz = models.CharField(_("time zone of the quiet hours"), max_length=64, blank=True, default="")

    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)
    deleted_at = models.DateTimeField(_("deleted"), null=True, blank=True, editable=False)

    objects = SessionQuerySet.as_manager()

    class Meta:
        db_table = "wa_session"
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        ordering = ["name"]
        permissions = [("operate_session", _("Can pause, resume, stop and start sessions"))]
        constraints = [
            # A name belongs to one living session; fence and reconciliation look sessions up by it.
            models.UniqueConstraint(fields=["name"], condition=Q(deleted_at=None), name="wa_session_name_once"),
            models.CheckConstraint(
                condition=Q(max_interval_ms__gte=F("min_interval_ms")), name="wa_session_interval_in_order"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def queue_name(self) -> str:
        """The name of this session's RQ queue."""
        return f"wa:{self.name}"

    @property
    def has_quiet_hours(self) -> bool:
        """Whether this session is silent for a part of the day."""
        return self.quiet_start is not None and self.quiet_end is not None


class SessionCounter(models.Model):
    """The next place in a session's queue. Its row is the lock that submitting and deleting take.

    A sequence would not do: it commits out of order, and a later message would be sent before an earlier one.
    The row goes when its session is deleted, so that nothing can slip into one.
    """

    session = models.OneToOneField(Session, on_delete=models.CASCADE, primary_key=True, related_name="counter")
    next_seq = models.BigIntegerField(default=1)

    class Meta:
        db_table = "wa_session_counter"

    def __str__(self) -> str:
        return f"{self.session_id}: {self.next_seq}"

    @classmethod
    def draw(cls, session_id: int, count: int = 1) -> int | None:
        """Draw `count` places and hold the row to commit; return the first, or None for a deleted session."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE wa_session_counter SET next_seq = next_seq + %s WHERE session_id = %s RETURNING next_seq",
                [count, session_id],
            )
            row = cursor.fetchone()
        return None if row is None else row[0] - count


class SessionDispatch(models.Model):
    """What dispatch knows about a Session: when it may send next, and why not. Survives the loss of Redis."""

    session = models.OneToOneField(Session, on_delete=models.CASCADE, primary_key=True, related_name="dispatch")
    hold = models.CharField(_("held"), max_length=15, choices=Hold.choices, default=Hold.NONE, blank=True)
    hold_reason = models.CharField(_("why held"), max_length=500, blank=True, default="")
    held_at = models.DateTimeField(_("held since"), null=True, blank=True)
    # How many sends in a row ended uncertain: two hold the session until its engine answers a probe.
    uncertain_streak = models.PositiveSmallIntegerField(default=0)
    # Pace and caps as one due time; null is at once.
    next_send_at = models.DateTimeField(null=True, blank=True)
    # The windows of the caps begin with the first message sent in them.
    hour_began_at = models.DateTimeField(null=True, blank=True)
    hour_count = models.PositiveIntegerField(default=0)
    day_began_at = models.DateTimeField(null=True, blank=True)
    day_count = models.PositiveIntegerField(default=0)
    # The next quiet window in absolute time, computed with the session's time zone whenever the last one is over.
    quiet_from = models.DateTimeField(null=True, blank=True)
    quiet_until = models.DateTimeField(null=True, blank=True)
    last_sent_at = models.DateTimeField(_("last sent"), null=True, blank=True)

    class Meta:
        db_table = "wa_session_dispatch"

    def __str__(self) -> str:
        return f"{self.session_id}: {self.hold or 'serving'}"


class RecipientPace(models.Model):
    """When a session may write to one recipient again. Only sessions with `per_recipient_ms` have such rows."""

    pk = models.CompositePrimaryKey("session_id", "recipient")
    session = models.ForeignKey(Session, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    recipient = models.CharField(max_length=16)
    next_send_at = models.DateTimeField()

    class Meta:
        db_table = "wa_recipient_pace"

    def __str__(self) -> str:
        return f"{self.session_id}: {self.next_send_at}"
