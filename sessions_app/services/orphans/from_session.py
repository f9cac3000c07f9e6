"""The unsent messages of a session that is deleted, kept as an orphan, in the transaction of the deletion."""

from django.db import connection
from django.utils import timezone

from sessions_app.models import Event, EventKind, Orphan, OrphanSource, OrphanState, Session
from sessions_app.services.orphans.archiving import summarise

_COPY = """
INSERT INTO wa_orphan_entry (orphan_id, index, raw, job_id, recipient, content, created_at, readable, error, message_id)
SELECT %(orphan)s, row_number() OVER (ORDER BY priority, seq) - 1, '', id::text, recipient,
       jsonb_strip_nulls(jsonb_build_object(
           'to', recipient, 'type', type, 'text', nullif(text, ''), 'media_url', nullif(media_url, ''),
           'filename', nullif(filename, ''), 'caption', nullif(caption, ''), 'template', template,
           'client_ref', nullif(client_ref, ''), 'priority', nullif(priority, 1),
           'scheduled_at', to_char(scheduled_at AT TIME ZONE 'UTC', %(time)s),
           'expires_at', to_char(expires_at AT TIME ZONE 'UTC', %(time)s))),
       created_at, true, '', id
FROM wa_message WHERE session_id = %(session)s AND status IN ('scheduled', 'queued')
"""
# As `written_time` writes it.
_TIME = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
_ORPHAN = """
UPDATE wa_message SET status = 'orphaned', orphan_id = %(orphan)s, next_attempt_at = NULL
WHERE session_id = %(session)s AND status IN ('scheduled', 'queued')
"""


def orphan_unsent(session: Session, *, by: str) -> Orphan:
    """Make an orphan of what `session` has not sent. The caller holds the session's counter row."""
    now = timezone.now()
    orphan = Orphan.objects.create(
        queue=session.queue_name,
        key=b"",
        session_name=session.name,
        source=OrphanSource.DELETED_SESSION,
        state=OrphanState.ARCHIVED,
        reason=f"its session was deleted by {by}"[:500],
        first_seen_at=now,
        last_seen_at=now,
        archived_at=now,
        is_cleaned=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(_COPY, {"orphan": orphan.pk, "session": session.pk, "time": _TIME})
        cursor.execute(_ORPHAN, {"orphan": orphan.pk, "session": session.pk})
    summarise(orphan)
    orphan.save()
    Event.objects.create(
        kind=EventKind.QUEUE_ORPHANED,
        session=session,
        data={"orphan": str(orphan.pk), "queue": orphan.queue, "messages": orphan.messages, "by": by},
    )
    return orphan
