"""Orphans: archive them out of Redis, restore their messages into a session, purge them for good, export them.

selection   which of an orphan's messages an act is about
archiving   out of Redis, into PostgreSQL, whole; each step can be finished by a later run
unknown     jobs of a known session that no row knows
from_session  the unsent messages of a session that is deleted
adopting    what a session finds under its name when it is made
restoring   messages into a session's line, in their old order
purging     for good, with the count typed
progress    what an act has done so far, written down with every part
background  restores and purges of thousands, by a worker
preview     what a restore would do, counted without doing it
exporting   as CSV or JSON lines
listing     what pages show of archived and of live ones
"""

from sessions_app.services.orphans.adopting import Adopted, adopt
from sessions_app.services.orphans.archiving import archive, detect, finish_archiving
from sessions_app.services.orphans.background import purge_later, restore_later
from sessions_app.services.orphans.exporting import begin_export, export_rows
from sessions_app.services.orphans.listing import EntryView, entries, first_times, get, page
from sessions_app.services.orphans.preview import Preview, preview, waiting
from sessions_app.services.orphans.purging import OrphanChanged, purge
from sessions_app.services.orphans.restoring import Restored, restore
from sessions_app.services.orphans.selection import Selection

__all__ = [
    "Adopted",
    "EntryView",
    "OrphanChanged",
    "Preview",
    "Restored",
    "Selection",
    "adopt",
    "archive",
    "begin_export",
    "detect",
    "entries",
    "export_rows",
    "finish_archiving",
    "first_times",
    "get",
    "page",
    "preview",
    "purge",
    "purge_later",
    "restore",
    "restore_later",
    "waiting",
]
