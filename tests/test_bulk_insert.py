"""Messages that are inserted together: what they have in common goes once, and each keeps what is its own."""

from datetime import timedelta
from typing import Any

import pytest

from sessions_app.models import Message, Priority
from sessions_app.services import messages
from sessions_app.services.messages import Draft
from tests.factories import in_an_hour, make_session

pytestmark = pytest.mark.django_db


def assert_kept(made: list[Message]) -> None:
    """Fail unless PostgreSQL has each of these just as it is here."""
    fields = [field.attname for field in Message._meta.concrete_fields]
    for message in made:
        kept = Message.objects.get(pk=message.pk)
        assert {name: getattr(kept, name) for name in fields} == {name: getattr(message, name) for name in fields}


@pytest.mark.parametrize("order", [[0, 1, 0], [1, 0, 1]], ids=["full first", "bare first"])
def test_messages_of_one_call_keep_what_only_some_of_them_have(order: list[int]) -> None:
    later = in_an_hour()
    drafts = [
        Draft(
            to="+51911111111", type="template", text="a", template={"n": [1]}, priority=Priority.HIGH,
            scheduled_at=later, expires_at=later + timedelta(hours=1), client_ref="r", metadata={"k": 0},
        ),
        Draft(to="+51922222222", text="b"),
    ]  # fmt: skip
    made = messages.submit(make_session(), [drafts[which] for which in order])
    assert_kept(made)
    assert {each.template is None for each in made} == {True, False}


@pytest.mark.parametrize("values", [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"b": 1}, {"b": True})])
def test_what_is_equal_only_in_python_stays_different(values: tuple[Any, Any]) -> None:
    drafts = [
        Draft(to="+51911111111", type="template", template={"a": value}, metadata={"a": value}) for value in values
    ]
    made = messages.submit(make_session(), drafts)
    for message, value in zip(made, values, strict=True):
        message.refresh_from_db()
        assert repr(message.metadata["a"]) == repr(message.template["a"]) == repr(value)
