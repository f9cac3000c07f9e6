"""The ids that engines are given: of WhatsApp's own shape, the same each time, and found again without an index."""

import re
import uuid
from datetime import UTC, datetime, timedelta

from sessions_app.models import new_id
from sessions_app.transports.client_ids import client_id, ids_around


def test_an_id_has_the_shape_that_whatsapp_web_gives_and_is_always_the_same() -> None:
    message_id = new_id()
    assert re.fullmatch("3EB0[0-9A-F]{18}", client_id(message_id))
    assert client_id(message_id) == client_id(uuid.UUID(str(message_id)))


def test_no_two_of_many_messages_share_an_id_and_none_shows_the_time() -> None:
    made = [client_id(new_id()) for _ in range(20_000)]
    assert len(set(made)) == 20_000
    # Ids that grew with the time would begin alike.
    assert len({each[:8] for each in made}) > 10_000


def test_an_id_leads_to_the_millisecond_of_its_message_for_weeks() -> None:
    now = datetime.now(UTC)
    for age in (timedelta(0), timedelta(days=1), timedelta(days=49)):
        milliseconds = int((now - age).timestamp() * 1000)
        message_id = uuid.UUID(int=milliseconds << 80 | new_id().int % 2**80)
        around = ids_around(client_id(message_id), now)
        assert around is not None
        assert around[0] <= message_id <= around[1]
        assert around[1].int - around[0].int < 2**80


def test_what_was_made_by_a_clock_that_is_ahead_is_found_all_the_same() -> None:
    message_id = new_id()
    around = ids_around(client_id(message_id), datetime.now(UTC) - timedelta(minutes=5))
    assert around is not None and around[0] <= message_id <= around[1]


def test_ids_that_others_made_are_not_looked_for() -> None:
    for other in ("", "3EB0D971", "AC" * 16, "3eb0d971a974f4ac7f77c5", "3EB0D971A974F4AC7F77C5 ", "loopback-1"):
        assert ids_around(other, datetime.now(UTC)) is None
