"""The keys of secrets: given, changed without a stop, lost."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from sessions_app.exceptions import SecretUnreadable, SessionExists
from sessions_app.models import AuditEntry, Session
from sessions_app.services import sessions
from tests.api_client import ApiClient
from tests.factories import ACTOR, make_session
from tests.processes import PROJECT
from tests.secrets_lab import CONFIG, KEY, make_waha, new_key, opened
from waqueue.encryption import parse_keys

pytestmark = pytest.mark.django_db

SESSIONS = "/whatsapp/sessions"


def rotate(*arguments: str) -> tuple[str, str, int]:
    """What the command prints, what it complains of, and its exit code."""
    out, err = StringIO(), StringIO()
    try:
        call_command("rotate_secrets", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        return out.getvalue(), err.getvalue(), int(str(end.code))
    return out.getvalue(), err.getvalue(), 0


def test_a_secret_that_stands_in_the_open_is_read_as_it_is_and_sealed_by_the_rotation() -> None:
    session = make_waha()
    Session.objects.filter(pk=session.pk).update(config=CONFIG | {"remote_name": ""})
    assert opened(session) == CONFIG | {"remote_name": ""}
    assert "api_key" not in ApiClient().get(f"{SESSIONS}/school")["config"]
    assert rotate() == ("Secrets encrypted anew: 2; under the newest key already: 0; unreadable: 0.\n", "", 0)
    assert opened(session) == CONFIG | {"remote_name": ""}
    session.refresh_from_db()
    assert "sesame" not in str(session.config)


# Keys


def test_without_keys_the_secret_key_gives_one_and_its_fallbacks_still_read(settings: Any) -> None:
    session = make_waha()
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-secret-key-of-more-than-fifty-characters-0123456789"
    assert opened(session)["api_key"] == KEY
    assert rotate()[2] == 0
    settings.SECRET_KEY_FALLBACKS = []
    assert opened(session)["api_key"] == KEY
    settings.SECRET_KEY = "a-third-secret-key-of-more-than-fifty-characters-0123456789"
    with pytest.raises(SecretUnreadable):
        opened(session)


def test_keys_are_rotated_without_a_moment_in_which_a_secret_cannot_be_read(settings: Any) -> None:
    old, new = new_key(), new_key()
    live, gone = make_waha(), make_waha("gone")
    make_session("alpha")
    sessions.delete(gone, actor=ACTOR)
    settings.WAQUEUE_ENCRYPTION_KEYS = [old]
    assert rotate() == ("Secrets encrypted anew: 4; under the newest key already: 0; unreadable: 0.\n", "", 0)

    settings.WAQUEUE_ENCRYPTION_KEYS = [new, old]
    assert opened(live)["api_key"] == KEY
    before = Session.objects.get(pk=live.pk)
    acts = AuditEntry.objects.count()
    expected = "Secrets to encrypt anew: 4; under the newest key already: 0; unreadable: 0.\n"
    assert rotate("--dry-run") == (expected, "", 1)
    assert Session.objects.get(pk=live.pk).config == before.config
    assert AuditEntry.objects.count() == acts
    assert rotate() == (expected.replace("to encrypt", "encrypted"), "", 0)
    assert rotate() == ("Secrets encrypted anew: 0; under the newest key already: 4; unreadable: 0.\n", "", 0)
    entry = AuditEntry.objects.order_by("-pk")[0]
    assert (entry.actor, entry.action, entry.count) == ("command rotate_secrets", "rotate secrets", 4)
    assert AuditEntry.objects.count() == acts + 1

    settings.WAQUEUE_ENCRYPTION_KEYS = [new]
    assert opened(live) == opened(gone) == CONFIG | {"remote_name": ""}
    assert Session.objects.get(pk=live.pk).updated_at == before.updated_at


def test_what_no_key_opens_is_named_left_alone_and_can_be_entered_anew(settings: Any) -> None:
    lost, kept = make_waha("lost", webhook_secret=""), make_waha()
    settings.WAQUEUE_ENCRYPTION_KEYS = [new_key()]
    foreign = Fernet(new_key()).encrypt(b"x").decode()
    Session.objects.filter(pk=lost.pk).update(config=lost.config | {"api_key": {"encrypted": foreign}})
    out, err, code = rotate()
    assert out == "Secrets encrypted anew: 2; under the newest key already: 0; unreadable: 1.\n"
    assert err == "lost: api_key cannot be read with the keys that are set\n" and code == 1
    assert opened(kept)["api_key"] == KEY
    # What stands around it can be changed, and it can be given anew.
    changed = sessions.update(lost, actor=ACTOR, config={"remote_name": "default"}, on_uncertain="resend")
    assert changed.config["api_key"] == {"encrypted": foreign} and changed.config["remote_name"] == "default"
    config = CONFIG | {"remote_name": "default", "webhook_secret": ""}
    with pytest.raises(SessionExists):
        sessions.create(name="lost", transport="waha", config=config, on_uncertain="resend", actor=ACTOR)
    assert opened(sessions.update(lost, actor=ACTOR, config={"api_key": KEY})) == config
    assert rotate()[2] == 0


def test_a_secret_of_a_transport_that_is_not_there_any_more_is_rotated_as_well(settings: Any) -> None:
    session = make_waha()
    Session.objects.filter(pk=session.pk).update(transport="vanished")
    new = new_key()
    settings.WAQUEUE_ENCRYPTION_KEYS = [new]
    assert rotate()[0].startswith("Secrets encrypted anew: 2;")
    session.refresh_from_db()
    assert Fernet(new).decrypt(session.config["api_key"]["encrypted"]).decode() == KEY


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
def test_keys_are_read_in_either_base64(encode: Callable[[bytes], bytes]) -> None:
    text = encode(b"\xfb\xef" * 16).decode()
    assert parse_keys("X", [f" {text} ", "", " "]) == [text.replace("+", "-").replace("/", "_")]
    Fernet(parse_keys("X", [text])[0])


@pytest.mark.parametrize("bad", ["short", "x" * 44, base64.b64encode(b"x" * 31).decode(), "ñ" * 44, "a b"])
def test_what_is_no_key_is_told_by_its_place_and_not_repeated(bad: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse_keys("WAQUEUE_ENCRYPTION_KEYS", [new_key(), bad])
    assert "WAQUEUE_ENCRYPTION_KEYS: number 2 of 2 is not a key" in str(caught.value)
    assert bad not in str(caught.value)


def test_check_tells_of_keys_that_are_none() -> None:
    environ = os.environ | {"WAQUEUE_ENCRYPTION_KEYS": f"{new_key()},not-a-key-at-all"}
    ran = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=PROJECT, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "WAQUEUE_ENCRYPTION_KEYS: number 2 of 2 is not a key" in ran.stderr
    assert "openssl rand -base64 32" in ran.stderr
    assert "not-a-key-at-all" not in ran.stderr
