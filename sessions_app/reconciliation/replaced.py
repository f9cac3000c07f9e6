"""What is left of a queue that was written anew: jobs in it that nobody knows are saved, the rest was copied."""

from sessions_app.models import Session
from sessions_app.models.orphan import new_staging_key
from sessions_app.queues import keys, lists
from sessions_app.reconciliation.difference import known_rows
from sessions_app.services.orphans.unknown import archive_unknown


def settle_replaced(key: bytes) -> int:
    """Save the unknown jobs of a replaced list, and let go of the list in parts; return how many there were.

    Raises QueueUnavailable, OtherDeployment. A list whose session is gone meanwhile is left to the next run, like one
    that an archiving has renamed. One that somebody else takes up goes on there.
    """
    name = lists.original_of(key).removeprefix((keys.RQ_QUEUE_PREFIX + keys.QUEUE_PREFIX).encode())
    session = Session.objects.alive().filter(name=name.decode("utf-8", "replace").replace("\0", "")).first()
    if session is None:
        # Not back to its own name: somebody may have begun a new list there.
        lists.rename_away(key, new_staging_key(lists.original_of(key)))
        return 0
    # Entries are dropped by their places: of two at one name, one would drop what only the other has read.
    own = lists.replaced_key(lists.original_of(key))
    lists.rename_away(key, own)
    saved = 0
    while job_ids := lists.read_raw(own, 0):
        known = known_rows(job_ids)
        # Jobs that are open stand in the new list, with their contents.
        gone: dict[bytes, bytes | None] = dict.fromkeys(known - known_rows(job_ids, only_open=True))
        if unknown := [job for job in dict.fromkeys(job_ids) if job not in known]:
            count, kept = archive_unknown(session, unknown)
            saved += count
            gone |= kept
        lists.drop_first(own, len(job_ids), gone)
    return saved
