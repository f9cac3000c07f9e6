"""Event: a fact, written in the transaction of what it tells."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from django.db import connection, models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from sessions_app.models.message import Message
from sessions_app.models.session import Session


class EventKind(models.TextChoices):
    MESSAGE_QUEUED = "message.queued", _("message queued")
    MESSAGE_SCHEDULED = "message.scheduled", _("message scheduled")
    MESSAGE_SENT = "message.sent", _("message sent")
    MESSAGE_DELIVERED = "message.delivered", _("message delivered")
    MESSAGE_READ = "message.read", _("message read")
    MESSAGE_RETRIED = "message.retried", _("message waits for another attempt")
    MESSAGE_RETURNED = "message.returned", _("message put back unsent")
    MESSAGE_FAILED = "message.failed", _("message failed")
    MESSAGE_UNCERTAIN = "message.uncertain", _("message uncertain")
    MESSAGE_POISON = "message.poison", _("message set aside: workers die of it")
    MESSAGE_RESENT = "message.resent", _("message sent again by policy")
    MESSAGE_EXPIRED = "message.expired", _("message expired")
    MESSAGE_CANCELLED = "message.cancelled", _("message cancelled")
    MESSAGE_RESOLVED = "message.resolved", _("uncertain message resolved")
    SESSION_CREATED = "session.created", _("session created")
    SESSION_CHANGED = "session.changed", _("session changed")
    SESSION_STATE_CHANGED = "session.state_changed", _("session state changed")
    SESSION_HELD = "session.held", _("session held")
    SESSION_DELETED = "session.deleted", _("session deleted")
    WORKER_GONE = "worker.gone", _("worker gone")
    QUEUES_REBUILT = "queues.rebuilt", _("queues rebuilt")
    QUEUE_ORPHANED = "queue.orphaned", _("queue orphaned")
    QUEUE_ARCHIVED = "queue.archived", _("orphan archived")
    QUEUE_RESTORED = "queue.restored", _("orphan restored")
    QUEUE_PURGED = "queue.purged", _("orphan purged")
    RECONCILIATION_FINISHED = "reconciliation.finished", _("reconciliation finished")


_TELL = """
INSERT INTO wa_event (kind, session_id, message_id, data)
SELECT %s, %s, value::uuid, %s::jsonb FROM json_array_elements_text(%s)
"""


class EventQuerySet(models.QuerySet["Event"]):
    def tell(self, kind: EventKind, session_id: int, message_ids: Sequence[uuid.UUID], **data: Any) -> None:
        """Write the same event of many messages of one session, in one statement."""
        if message_ids:
            with connection.cursor() as cursor:
                cursor.execute(
                    _TELL, [kind, session_id, json.dumps(data), json.dumps([str(each) for each in message_ids])]
                )


class Event(models.Model):
    """A fact about a session or a message. `data` is plain JSON, without contents and secrets."""

    kind = models.CharField(_("what"), max_length=30, choices=EventKind.choices)
    # No constraints in the database: written in bulk beside the rows they tell of, and kept longer than those.
    session = models.ForeignKey(
        Session,
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,
        null=True,
        blank=True,
        related_name="events",
    )
    message = models.ForeignKey(
        Message, on_delete=models.CASCADE, db_constraint=False, null=True, blank=True, related_name="events"
    )
    data = models.JSONField(_("details"), default=dict, blank=True)
    created_at = models.DateTimeField(_("when"), db_default=Now())

    objects = EventQuerySet.as_manager()

    class Meta:
        db_table = "wa_event"
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["id"]
        indexes = [
            # A session's own history, newest first.
            models.Index(fields=["session", "-id"], name="wa_event_of_session"),
            # What is not about one message: rare, and looked for among millions that are.
            models.Index(fields=["kind", "-id"], condition=~Q(kind__startswith="message."), name="wa_event_rare"),
        ]

    def __str__(self) -> str:
        return self.kind
