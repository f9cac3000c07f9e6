"""One index less on messages, and room on each page for the versions of a row that sending it makes."""

from django.db import migrations, models
from django.db.models import Q

_OPEN = ("queued", "sending")
# Table, room for rows when they are inserted, and what it was. A flight is written twice in one transaction, an attempt
# once more when it ends, a message twice until it is sent: on the same page that costs neither a lock nor, where no
# index knows what changed, an index entry.
_ROOM = (("wa_in_flight", 30, 70), ("wa_attempt", 45, 60), ("wa_message", 60, 85))


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0006_reconciliation_kept_going")]

    operations = [
        migrations.RemoveConstraint(model_name="message", name="wa_message_place_once"),
        migrations.RemoveIndex(model_name="message", name="wa_message_line"),
        migrations.AddConstraint(
            model_name="message",
            constraint=models.UniqueConstraint(
                condition=Q(("status__in", _OPEN)),
                fields=("session", "priority", "seq"),
                name="wa_message_line",
            ),
        ),
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} SET (fillfactor = {now})", f"ALTER TABLE {table} SET (fillfactor = {before})"
            )
            for table, now, before in _ROOM
        ),
    ]
