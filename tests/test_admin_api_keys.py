"""API keys in the admin: made once, shown once, revoked after a question."""

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session as WebSession
from django.test import Client
from django.utils import timezone

from sessions_app.models import ApiKey
from sessions_app.models.api_key import digest
from tests.admin_lab import act_url, audited, boss, confirm, list_url, person, text_of
from tests.factories import make_session

pytestmark = pytest.mark.django_db

ADD = "/admin/sessions_app/apikey/add/"
FORM = {"name": "reports", "scopes": ["read", "send"]}


def test_a_key_is_shown_once_in_the_answer_that_made_it_and_kept_nowhere() -> None:
    client = boss()
    response = client.post(ADD, FORM)
    plain = response.context["plain"]
    assert plain in response.content.decode()
    assert "no-store" in response.headers["Cache-Control"]
    key = ApiKey.objects.get()
    assert key.secret_digest == digest(plain)
    assert plain not in client.get(list_url("apikey")).content.decode()
    assert plain not in client.get("/admin/").content.decode()
    secret = plain.split("_")[2]
    assert all(secret not in str(row.get_decoded()) for row in WebSession.objects.all())
    assert all(secret not in str(entry) for entry in audited())
    assert [entry[1:] for entry in audited()] == [("create API key", str(key))]


def test_a_key_may_be_limited_to_sessions_and_days() -> None:
    alpha = make_session("alpha")
    make_session("beta")
    day = timezone.localdate() + timedelta(days=3)
    boss().post(ADD, FORM | {"is_limited": "on", "sessions": ["alpha"], "expires_on": day.isoformat()})
    key = ApiKey.objects.get()
    assert key.is_limited
    assert list(key.sessions.all()) == [alpha]
    assert key.expires_at is not None
    assert timezone.localtime(key.expires_at).date() == day + timedelta(days=1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"is_limited": "on"}, "sessions"),
        ({"sessions": ["alpha"]}, "is_limited"),
        ({"is_limited": "on", "sessions": ["nowhere"]}, "sessions"),
        ({"expires_on": "2001-01-01"}, "expires_on"),
        ({"expires_on": "tomorrow"}, "expires_on"),
    ],
)
def test_what_does_not_fit_is_told_beside_its_field(change: dict[str, object], field: str) -> None:
    make_session("alpha")
    response = boss().post(ADD, FORM | change)
    assert field in response.context["form"].errors
    assert not ApiKey.objects.exists()


def test_a_name_in_use_is_told_beside_the_name() -> None:
    client = boss()
    client.post(ADD, FORM)
    response = client.post(ADD, FORM)
    assert "name" in response.context["form"].errors
    assert ApiKey.objects.count() == 1


def test_a_key_is_revoked_after_a_question_and_once() -> None:
    client = boss()
    client.post(ADD, FORM)
    key = ApiKey.objects.get()
    assert "Revoke 1 API key?" in text_of(client.get(act_url("apikey", "revoke", key.pk)))
    key.refresh_from_db()
    assert key.revoked_at is None
    report = confirm(client, "apikey", "revoke", key.pk)
    assert report.redirect_chain[0][0] == list_url("apikey")
    assert "1 API key was revoked." in text_of(report)
    assert "revoked" in text_of(client.get(list_url("apikey")))
    assert "1 was left alone" in text_of(confirm(client, "apikey", "revoke", key.pk))
    assert [entry[1] for entry in audited()] == ["create API key", "revoke API key"]


def test_the_list_tells_scopes_sessions_use_and_state() -> None:
    key, _ = ApiKey.build("old", ["manage"])
    key.expires_at = timezone.now() - timedelta(days=1)
    key.is_limited = True
    key.save()
    key.sessions.add(make_session("alpha"))
    seen = text_of(person("view_apikey").get(list_url("apikey")))
    for words in ("old", key.prefix, "manage", "alpha", "never", "expired"):
        assert words in seen


def test_keys_are_made_and_revoked_only_with_the_permission() -> None:
    viewer = person("view_apikey", "operate_session", "add_session")
    for client, status in ((viewer, 403), (person("manage_apikey"), 200), (Client(), 302)):
        assert client.get(ADD).status_code == status
    assert viewer.post(ADD, FORM).status_code == 403
    assert not ApiKey.objects.exists()
    assert ADD not in viewer.get(list_url("apikey")).content.decode()


def test_a_get_makes_no_key() -> None:
    boss().get(ADD, FORM)
    assert not ApiKey.objects.exists()
