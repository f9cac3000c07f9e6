"""What Django has no words for: the sequence of attempt tokens, and how PostgreSQL keeps the hottest tables small."""

from django.db import migrations

# Rows of these tables change with every message: room on each page keeps updates off the indexes, and vacuum comes
# after a number of changes and not after a share of a table that may have become large.
_HOT = "fillfactor = {}, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000"


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0001_initial")]

    operations = [
        migrations.RunSQL(
            "CREATE SEQUENCE wa_attempt_token AS bigint",
            "DROP SEQUENCE wa_attempt_token",
        ),
        *(
            migrations.RunSQL(f"ALTER TABLE {table} SET ({_HOT.format(fill)})", f"ALTER TABLE {table} RESET (fillfactor)")
            for table, fill in (("wa_session_dispatch", 50), ("wa_session_counter", 50), ("wa_in_flight", 70), ("wa_message", 85))
        ),
    ]
