"""Every page of the admin, registered by being imported. A new group of pages is a file and a line here."""

from sessions_app.admin import (  # noqa: F401
    accounts,
    api_keys,
    audit,
    batches,
    events,
    loopback,
    messages,
    orphans,
    reconciliations,
    rq_pages,
    sessions,
    tasks,
    workers,
)
