"""Attempt: one try to hand a message to its transport. InFlight: the tries that are under way now."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from sessions_app.models.message import Message
from sessions_app.models.session import Session

# One sequence for the attempts of all sessions: a token says which of two attempts is the newer one, and whether a
# restored database is older than the Redis beside it. Made by the first migration.
TOKEN_SEQUENCE = "wa_attempt_token"  # noqa: S105 (a name, not a secret)
# The highest token that this database has committed. Not the sequence's: that one is written 32 numbers ahead, and what
# is recovered from a base backup would seem to know attempts that it never made.
NEWEST_TOKEN = """
SELECT greatest((SELECT max(token) FROM wa_attempt), (SELECT max(known_token) FROM wa_deployment), 0)
"""  # noqa: S105 (a statement, not a secret)

# Whether a message `m` that its policy sends again may have arrived: an attempt ended uncertain, was not refused later,
# and no person, who would have known of it, has decided since. For others it costs a look at the row in hand.
IN_DOUBT = """
CASE WHEN m.resends > 0 THEN (
    SELECT count(*) > 0 FROM wa_attempt doubted
    WHERE doubted.message_id = m.id AND doubted.outcome = 'uncertain' AND doubted.late_outcome IN ('', 'sent')
      AND doubted.finished_at > coalesce(
          (SELECT max(created_at) FROM wa_event WHERE message_id = m.id AND kind = 'message.resolved'), '-infinity')
) ELSE false END
"""
# What is said of it when it ends, beside how.
MAY_HAVE_ARRIVED = "an earlier attempt may have arrived"


class Outcome(models.TextChoices):
    """What came of an attempt. Empty while it is under way."""

    SENT = "sent", _("accepted")
    RETRY = "retry", _("refused for now")
    HELD = "held", _("not connected")
    FAILED = "failed", _("refused for good")
    REFUSED = "refused", _("session refused")
    UNCERTAIN = "uncertain", _("nobody knows")
    RETURNED = "returned", _("put back unsent")


class Attempt(models.Model):
    """One try, written before it is made. Rows are written by the fence and the settle, in bulk."""

    token = models.BigIntegerField(primary_key=True)
    # No constraints in the database: fence and settle write only rows whose message they hold in the same statement.
    message = models.ForeignKey(Message, on_delete=models.CASCADE, db_constraint=False, related_name="tries")
    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    number = models.PositiveSmallIntegerField(_("number"))
    worker_id = models.UUIDField(_("worker"))
    fenced_at = models.DateTimeField(_("began"))
    finished_at = models.DateTimeField(_("ended"), null=True, blank=True)
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices, blank=True, default="")
    provider_id = models.CharField(_("engine's id"), max_length=200, blank=True, default="")
    error_code = models.CharField(_("error code"), max_length=100, blank=True, default="")
    error_detail = models.CharField(_("error"), max_length=1000, blank=True, default="")
    # What was heard when a newer attempt, or a person, had already decided: kept as evidence, changes nothing.
    late_outcome = models.CharField(_("heard too late"), max_length=10, blank=True, default="")

    class Meta:
        db_table = "wa_attempt"
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        ordering = ["token"]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.message_id}"


class InFlight(models.Model):
    """A message on its way to the engine. Its key is the promise: the database refuses a second flight."""

    pk = models.CompositePrimaryKey("session_id", "slot")
    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="flights"
    )
    # 0 where order holds per session. A transport that allows more uses slots above it and orders per recipient.
    slot = models.PositiveSmallIntegerField(default=0)
    token = models.BigIntegerField()
    # Null only inside the fence's own transaction: a reservation that has not looked yet.
    message = models.ForeignKey(
        Message, on_delete=models.CASCADE, db_constraint=False, db_index=False, null=True, related_name="flights"
    )
    worker_id = models.UUIDField()
    fenced_at = models.DateTimeField()
    # After it, a worker whose heartbeat is silent too is dead, and the outcome is unknown.
    deadline_at = models.DateTimeField()

    class Meta:
        db_table = "wa_in_flight"

    def __str__(self) -> str:
        return f"{self.message_id} in {self.session_id}"
