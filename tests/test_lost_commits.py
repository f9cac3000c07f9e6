"""What is taken for a row whose COMMIT was not answered."""

from datetime import timedelta

import pytest

from sessions_app.models import Batch
from sessions_app.services.lost_commits import _is_there
from tests.doubt_lab import resending

pytestmark = pytest.mark.django_db


def test_a_row_of_the_same_number_that_was_made_at_another_time_is_another_one() -> None:
    resending("hello")
    kept = Batch.objects.get()
    assert _is_there(Batch(pk=kept.pk, created_at=kept.created_at))
    assert not _is_there(Batch(pk=kept.pk, created_at=kept.created_at + timedelta(microseconds=1)))
    kept.delete()
    assert not _is_there(Batch(pk=kept.pk, created_at=kept.created_at))
