"""Rows that every request asks for, found by a statement that is planned once."""

import pytest
from django.db import DatabaseError, connection, transaction
from django.forms.models import model_to_dict

from sessions_app.models import Session, SessionDispatch
from sessions_app.models.finder import Finder
from tests.factories import make_session

pytestmark = pytest.mark.django_db(transaction=True)

living = Finder(Session, "found.name = %s AND found.deleted_at IS NULL", beside="dispatch")


def test_it_finds_what_the_orm_finds_with_its_types_and_the_row_beside_it() -> None:
    made = make_session("alpha")
    Session.objects.filter(pk=made.pk).update(quiet_start="22:00", quiet_end="06:00", config={"delay_ms": 5})
    found = living("alpha")
    assert found is not None
    expected = Session.objects.select_related("dispatch").get(pk=made.pk)
    assert found == expected
    assert model_to_dict(found) == model_to_dict(expected)
    assert (found.created_at, found.config) == (expected.created_at, expected.config)
    with transaction.atomic():
        before = len(connection.queries_log)
        assert model_to_dict(found.dispatch) == model_to_dict(expected.dispatch)
        assert found.dispatch.session is found
        assert len(connection.queries_log) == before


def test_it_finds_nothing_where_there_is_nothing() -> None:
    make_session("alpha")
    assert living("beta") is None


def test_what_it_finds_can_be_changed_and_saved() -> None:
    made = make_session("alpha")
    found = living("alpha")
    assert found is not None
    found.phone = "+51930246633"
    found.save(update_fields=["phone"])
    SessionDispatch.objects.filter(pk=found.dispatch.pk).update(hold_reason="seen")
    assert Session.objects.get(pk=made.pk).phone == "+51930246633"


def test_its_statement_is_planned_once_for_a_connection() -> None:
    make_session("alpha")
    for _ in range(3):
        living("alpha")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%wa_session_ found%%'")
        assert cursor.fetchone() == (1,)


def test_it_raises_the_errors_of_django() -> None:
    broken = Finder(Session, "found.no_such_column = %s")
    with pytest.raises(DatabaseError, match="no_such_column"):
        broken("alpha")


def test_it_sees_what_its_own_transaction_wrote_and_refuses_one_that_is_broken() -> None:
    with transaction.atomic():
        make_session("alpha")
        assert living("alpha") is not None
        with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
            transaction.set_rollback(True)
            living("alpha")
