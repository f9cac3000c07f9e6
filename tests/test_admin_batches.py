"""The pages of batches: how far each is, its messages, and its rest cancelled by whoever may."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from sessions_app.admin import batches as pages
from sessions_app.models import Batch, Message, Status, new_id
from sessions_app.services import sessions
from tests.admin_lab import act_url, audited, boss, confirm, list_url, page_url, person, text_of
from tests.batch_lab import counts, drafts, hand_in, of
from tests.factories import ACTOR, become, hold, in_an_hour, make_session, submit

pytestmark = pytest.mark.django_db

MAY = ("view_batch", "operate_batch")


def shown(client: Any, **filters: Any) -> list[Any]:
    response = client.get(list_url("message"), {name: str(value) for name, value in filters.items()})
    return [message.pk for message in response.context["cl"].result_list]


# The list.


def test_the_list_says_how_far_each_batch_is_newest_first() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    hand_in(alpha, *"abcd", rejected=3)
    moving, over = hand_in(beta, *"abc"), hand_in(beta, *"ab")
    for message, status in zip(of(moving), ("sent", "failed", "queued"), strict=True):
        become(message, Status(status))
    for message in of(over):
        become(message, Status.SENT)
    response = person("view_batch").get(list_url("batch"))
    seen = text_of(response)
    lines = ["2 of 2", "done", "2 of 3", "sending", "1 failed", "0 of 4", "queued", ACTOR.label]
    assert all(words in seen for words in lines)
    assert [batch.accepted for batch in response.context["cl"].result_list] == [2, 3, 4]


def test_the_list_is_filtered_by_session_and_searched_by_id() -> None:
    alpha, beta = make_session("alpha"), make_session("beta")
    one, two = hand_in(alpha, "x"), hand_in(beta, "y")
    client = boss()

    def found(**query: str) -> list[Any]:
        return [batch.pk for batch in client.get(list_url("batch"), query).context["cl"].result_list]

    assert found(session="alpha") == [one.pk]
    assert found(q=f" {two.pk} ") == [two.pk]
    assert found(q="nothing") == []
    assert found(since="1h") == [two.pk, one.pk]


def test_the_list_costs_as_many_queries_for_thirty_batches_as_for_one() -> None:
    session = make_session()
    client = boss()

    def cost(count: int) -> int:
        for _ in range(count):
            hand_in(session, *"abc")
        with CaptureQueriesContext(connection) as queries:
            assert client.get(list_url("batch")).status_code == 200
        return len(queries)

    cost(1)
    assert cost(1) == cost(30)


# One batch.


def test_the_page_of_a_batch_says_how_far_it_is_and_leads_to_its_messages() -> None:
    session = make_session("alpha")
    batch = hand_in(session, *"abcd", rejected=2)
    become(of(batch)[0], Status.SENT)
    become(of(batch)[1], Status.UNCERTAIN)
    client = boss()
    response = client.get(page_url("batch", batch.pk))
    seen = text_of(response)
    for words in ("sending", "2 of 4", "It is done at about", "Rejected 2", "Accepted 4", ACTOR.label, str(batch.pk)):
        assert words in seen, words
    html = response.content.decode()
    assert f"{list_url('message')}?batch={batch.pk}&amp;status=uncertain" in html
    assert page_url("session", session.pk) in html
    # It renews itself while there is something to see.
    assert 'data-refresh-ms="3000"' in html
    hold(session, "refused")
    assert "Its session does not send just now." in text_of(client.get(page_url("batch", batch.pk)))
    Message.objects.update(status=Status.SENT)
    html = client.get(page_url("batch", batch.pk)).content.decode()
    assert "data-refresh-ms" not in html and "does not send" not in html


def test_a_batch_without_a_message_and_one_of_a_deleted_session_have_a_page_too() -> None:
    session = make_session("alpha")
    empty, gone = hand_in(session, rejected=4), hand_in(session, *"ab")
    sessions.delete(session, actor=ACTOR, unsent="orphan")
    client = boss()
    assert "0 of 0" in text_of(client.get(page_url("batch", empty.pk)))
    seen = text_of(client.get(page_url("batch", gone.pk)))
    assert "alpha (deleted)" in seen and "orphaned 2" in seen
    assert "alpha" in text_of(client.get(list_url("batch")))


def test_a_batch_that_is_not_there_is_not_found_and_one_not_to_be_seen_is_forbidden() -> None:
    batch = hand_in(make_session(), "x")
    assert boss().get(page_url("batch", new_id())).status_code == 404
    assert person("view_message").get(page_url("batch", batch.pk)).status_code == 403
    assert person("view_message").get(list_url("batch")).status_code == 403
    assert boss().post(page_url("batch", batch.pk)).status_code == 405


def test_what_a_person_may_not_see_is_not_linked() -> None:
    batch = hand_in(make_session(), "x")
    html = person("view_batch").get(page_url("batch", batch.pk)).content.decode()
    assert list_url("message") not in html and "/session/" not in html and "/act/" not in html


# From messages and back.


def test_messages_are_filtered_by_batch_and_the_filter_shows_only_then() -> None:
    session = make_session()
    submit(session, "single")
    batch, other = hand_in(session, *"abc"), hand_in(session, "d")
    become(of(batch)[0], Status.FAILED)
    client = boss()
    assert shown(client, batch=batch.pk) == [message.pk for message in reversed(of(batch))]
    assert shown(client, batch=batch.pk.hex) == shown(client, batch=batch.pk)
    assert shown(client, batch=batch.pk, status="failed") == [of(batch)[0].pk]
    assert shown(client, batch=other.pk, status="failed") == []
    assert shown(client, batch="nothing") == []
    assert str(batch.pk)[-8:] in client.get(list_url("message"), {"batch": str(batch.pk)}).content.decode()
    assert "By batch" not in text_of(client.get(list_url("message")))


def test_the_page_of_a_message_leads_to_its_batch() -> None:
    batch = hand_in(make_session(), "x")
    (message,) = of(batch)
    assert page_url("batch", batch.pk) in boss().get(page_url("message", message.pk)).content.decode()
    html = person("view_message").get(page_url("message", message.pk)).content.decode()
    assert str(batch.pk) in html and page_url("batch", batch.pk) not in html


# Cancelling its rest.


def test_its_rest_is_cancelled_after_a_question_that_says_how_many() -> None:
    session = make_session("alpha")
    batch = hand_in(session, *"abcde")
    become(of(batch)[0], Status.SENT)
    become(of(batch)[1], Status.SENDING)
    client = person(*MAY)
    page = client.get(page_url("batch", batch.pk)).content.decode()
    assert act_url("batch", "cancel", batch.pk) in page
    question = text_of(client.get(act_url("batch", "cancel", batch.pk)))
    assert "Cancel the rest of 1 batch?" in question
    assert "alpha 1 of 5 3" in question
    assert counts(batch)["queued"] == 3
    seen = text_of(confirm(client, "batch", "cancel", batch.pk))
    assert "3 messages were cancelled." in seen and "The rest of 1 batch was cancelled." in seen
    assert counts(batch) == {"sent": 1, "sending": 1, "cancelled": 3}
    assert audited() == [("person-0", "cancel batch", str(batch.pk))]
    page = client.get(page_url("batch", batch.pk)).content.decode()
    assert "/act/" not in page
    assert "1 was left alone" in text_of(confirm(client, "batch", "cancel", batch.pk))
    assert len(audited()) == 1
    become(of(batch)[1], Status.SENT)
    assert "cancelled" in text_of(client.get(list_url("batch")))


def test_several_are_cancelled_from_the_list_and_what_was_sent_whole_is_left_alone() -> None:
    session = make_session()
    one, two, sent = hand_in(session, *"ab"), hand_in(session, "c", scheduled_at=in_an_hour()), hand_in(session, "d")
    become(of(sent)[0], Status.SENT)
    client = person(*MAY)
    data = {"action": "cancel", "_selected_action": [str(each.pk) for each in (one, two, sent)]}
    question = text_of(client.post(list_url("batch"), data))
    assert "Cancel the rest of 2 batches?" in question
    assert "1 of those chosen is not in a state for this" in question
    seen = text_of(confirm(client, "batch", "cancel", one.pk, two.pk, sent.pk))
    assert "3 messages were cancelled." in seen and "1 was left alone" in seen
    assert set(Batch.objects.exclude(cancelled_at=None)) == {one, two}


def test_no_more_than_a_person_would_wait_for_are_cancelled_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_AT_ONCE", 2)
    session = make_session()
    made = [hand_in(session, "x") for _ in range(3)]
    client = person(*MAY)
    assert confirm(client, "batch", "cancel", *(batch.pk for batch in made)).status_code == 403
    assert Message.objects.filter(status=Status.QUEUED).count() == 3


@pytest.mark.parametrize("permissions", [("view_batch",), ("view_batch", "operate_message"), ("operate_batch",)])
def test_whoever_may_not_is_refused_whatever_the_address(permissions: tuple[str, ...]) -> None:
    batch = hand_in(make_session(), *"ab")
    client = person(*permissions)
    assert client.get(act_url("batch", "cancel", batch.pk)).status_code == 403
    assert confirm(client, "batch", "cancel", batch.pk).status_code == 403
    assert counts(batch) == {"queued": 2}


def test_the_groups_may_what_their_names_say() -> None:
    batch = hand_in(make_session(), "x")
    for group, status in (("Viewer", 403), ("Operator", 200), ("Administrator", 200)):
        client = person(group=group)
        assert client.get(page_url("batch", batch.pk)).status_code == 200
        assert client.get(act_url("batch", "cancel", batch.pk)).status_code == status


def test_a_get_changes_nothing() -> None:
    batch = hand_in(make_session(), drafts("x")[0].text)
    boss().get(act_url("batch", "cancel", batch.pk) + "&confirmed=yes")
    assert counts(batch) == {"queued": 1}
