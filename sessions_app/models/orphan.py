"""Orphan: messages whose session PostgreSQL does not have. OrphanEntry: one of them, whole, also when unreadable."""

import uuid
from collections.abc import Sequence

from django.contrib.postgres.indexes import HashIndex
from django.db import models
from django.db.models import BinaryField, Func, Q
from django.utils.translation import gettext_lazy as _

from sessions_app.database import kept_cursor
from sessions_app.models.message import Message, new_id
from sessions_app.models.session import Session


class OrphanSource(models.TextChoices):
    RQ = "rq", _("RQ queue")
    LEGACY = "legacy", _("list of the old service")
    DELETED_SESSION = "deleted_session", _("deleted session")
    UNKNOWN_JOBS = "unknown_jobs", _("jobs without a row")


class OrphanState(models.TextChoices):
    # Still in Redis, left where it is.
    DETECTED = "detected", _("detected")
    # Copied out of Redis, whole, and waiting for a person.
    ARCHIVED = "archived", _("archived")
    RESTORED = "restored", _("restored")
    PURGED = "purged", _("purged")
    # It was in Redis and is not any more, and it was not us.
    VANISHED = "vanished", _("vanished")


# Orphans that wait for a decision.
UNRESOLVED = (OrphanState.DETECTED, OrphanState.ARCHIVED)


def _digest(field: str) -> Func:
    """What stands in an index for a name of Redis: some of those are longer than an index takes."""
    return Func(field, function="sha256", output_field=BinaryField())


class OrphanQuerySet(models.QuerySet["Orphan"]):
    def unresolved(self) -> "OrphanQuerySet":
        """Those that wait for a decision."""
        return self.filter(state__in=UNRESOLVED)

    def unfinished(self) -> "OrphanQuerySet":
        """Those whose archiving was begun and not brought to its end."""
        return self.exclude(staging_key=b"").filter(is_cleaned=False)


class Orphan(models.Model):
    """A queue without an owner, from the moment it is seen until a person, or a policy, has decided.

    Archiving goes by steps, each of which a later run can finish: the row with its staging key is committed, the list
    is renamed to that key, copied into entries, committed as `archived`, and only then deleted from Redis.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # As people read it; bytes that are no text are escaped. `key` is what Redis calls it.
    queue = models.CharField(_("queue"), max_length=1000)
    key = models.BinaryField(editable=False)
    session_name = models.CharField(_("session"), max_length=1000)
    # The living session that it belongs to, where there is one: unknown jobs, and old messages of an adopted list.
    session = models.ForeignKey(
        Session, on_delete=models.SET_NULL, null=True, blank=True, related_name="orphans", verbose_name=_("session")
    )
    source = models.CharField(_("source"), max_length=20, choices=OrphanSource.choices)
    state = models.CharField(_("state"), max_length=10, choices=OrphanState.choices, default=OrphanState.DETECTED)
    reason = models.CharField(_("why"), max_length=500)
    messages = models.PositiveIntegerField(_("messages"), default=0)
    unreadable = models.PositiveIntegerField(_("unreadable"), default=0)
    oldest_at = models.DateTimeField(_("oldest"), null=True, blank=True)
    newest_at = models.DateTimeField(_("newest"), null=True, blank=True)
    first_seen_at = models.DateTimeField(_("seen since"))
    last_seen_at = models.DateTimeField(_("last seen"))
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True)
    resolved_at = models.DateTimeField(_("resolved"), null=True, blank=True)
    resolved_by = models.CharField(_("resolved by"), max_length=200, blank=True, default="")
    resolution = models.CharField(_("what was done"), max_length=500, blank=True, default="")
    staging_key = models.BinaryField(default=b"", editable=False)
    is_cleaned = models.BooleanField(default=False, editable=False)

    objects = OrphanQuerySet.as_manager()

    class Meta:
        db_table = "wa_orphan"
        verbose_name = _("orphan")
        verbose_name_plural = _("orphans")
        ordering = ["-first_seen_at"]
        permissions = [
            ("restore_orphan", _("Can restore orphans")),
            ("purge_orphan", _("Can purge orphans")),
        ]
        constraints = [
            # A queue in Redis is one orphan, however many runs see it.
            models.UniqueConstraint(_digest("key"), condition=Q(state="detected"), name="wa_orphan_known_once"),
            models.UniqueConstraint(
                _digest("staging_key"), condition=~Q(staging_key=b""), name="wa_orphan_renamed_once"
            ),
        ]
        indexes = [
            # What a session that is made finds under its name; what lists show first.
            HashIndex(fields=["session_name"], condition=Q(state__in=UNRESOLVED), name="wa_orphan_of_session"),
            # The row of a list that a run sees again.
            HashIndex(fields=["key"], condition=Q(state="detected"), name="wa_orphan_of_key"),
        ]

    def __str__(self) -> str:
        return self.queue


# Thousands of rows as parameters take longer than PostgreSQL takes to keep them.
_COPY = """
COPY wa_orphan_entry
    (orphan_id, index, raw, job_id, recipient, content, created_at, readable, error, duplicate_of)
FROM STDIN (FORMAT BINARY)
"""
_COPIED = ("uuid", "int4", "bytea", "varchar", "varchar", "jsonb", "timestamptz", "bool", "varchar", "uuid")
# By their ids alone first: of a large orphan, all entries would be compared with all ids.
_RAW = """
WITH same AS MATERIALIZED (SELECT orphan_id, job_id, raw FROM wa_orphan_entry WHERE job_id = ANY(%s))
SELECT job_id, raw FROM same WHERE orphan_id = %s
"""


class OrphanEntryQuerySet(models.QuerySet["OrphanEntry"]):
    def keep(self, orphan: Orphan, entries: Sequence["OrphanEntry"]) -> None:
        """Insert what was copied of an orphan, in its order; what is there at its place already stays.

        The caller holds the orphan's row, so that nobody else adds to it. Raises the errors of django.db.
        """
        if not entries:
            return
        places = self.filter(orphan=orphan, index__range=(entries[0].index, entries[-1].index))
        there = set(places.values_list("index", flat=True))
        with kept_cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_COPIED)
            for each in entries:
                if each.index not in there:
                    copy.write_row((
                        orphan.pk, each.index, each.raw, each.job_id, each.recipient, each.content, each.created_at,
                        each.readable, each.error, each.duplicate_of,
                    ))  # fmt: skip

    def raw_of(self, orphan: Orphan, job_ids: Sequence[str]) -> dict[str, bytes]:
        """What was copied of these jobs of an orphan, by their ids. Raises the errors of django.db."""
        with kept_cursor() as cursor:
            return dict(cursor.execute(_RAW, [list(job_ids), orphan.pk], binary=True).fetchall())


class OrphanEntry(models.Model):
    """One entry of an orphan's list, in its order. `raw` is what stood in Redis, byte by byte."""

    id = models.BigAutoField(primary_key=True)
    orphan = models.ForeignKey(Orphan, on_delete=models.CASCADE, db_index=False, related_name="entries")
    index = models.PositiveIntegerField(_("place"))
    raw = models.BinaryField()
    # The job's or the old service's own id: it becomes `client_ref` of a restored message that has none.
    job_id = models.CharField(max_length=200, blank=True, default="")
    recipient = models.CharField(_("to"), max_length=16, blank=True, default="")
    # As `Message.content()`; empty where the entry could not be read.
    content = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(_("created"), null=True, blank=True)
    readable = models.BooleanField(_("readable"), default=True)
    error = models.CharField(_("why not"), max_length=300, blank=True, default="")
    # A message that was sent already and is the same by id, recipient and text.
    duplicate_of = models.UUIDField(_("sent already as"), null=True, blank=True)
    # What it was restored as; for a deleted session, the message that it was.
    message = models.ForeignKey(
        Message, on_delete=models.SET_NULL, null=True, blank=True, db_index=False, related_name="orphan_entries"
    )
    restored_at = models.DateTimeField(_("restored"), null=True, blank=True)

    objects = OrphanEntryQuerySet.as_manager()

    class Meta:
        db_table = "wa_orphan_entry"
        verbose_name = _("orphan's message")
        verbose_name_plural = _("orphans' messages")
        ordering = ["orphan", "index"]
        constraints = [
            # A copy that is begun again after a crash adds nothing twice.
            models.UniqueConstraint(fields=["orphan", "index"], name="wa_orphan_entry_once"),
        ]
        indexes = [
            models.Index(fields=["job_id"], name="wa_orphan_entry_job"),
            # What is left of it, in its order: a restore begins there, however much went before.
            models.Index(fields=["orphan", "index"], condition=Q(restored_at=None), name="wa_orphan_entry_left"),
            models.Index(fields=["message"], condition=Q(message__isnull=False), name="wa_orphan_entry_message"),
        ]

    def __str__(self) -> str:
        return f"{self.orphan_id}: {self.index}"


def new_staging_key(key: bytes) -> bytes:
    """A name to rename a list to: random, and still telling whose list it was if every row about it were lost."""
    return b"waqueue:archive:" + uuid.uuid4().hex.encode() + b":" + key
