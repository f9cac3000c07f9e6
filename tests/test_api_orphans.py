"""Orphans and reconciliations over HTTP."""

import base64
import csv
import io
import json
import time
import uuid
from typing import Any

import pytest

from sessions_app.models import AuditEntry, Message, Orphan, Reconciliation, Session, Status
from sessions_app.queues.connection import web_client
from sessions_app.services import tasks
from tests.api_client import ApiClient

pytestmark = pytest.mark.django_db(transaction=True)


def old_list(name: str, count: int, *, age_s: float = 60, **changes: Any) -> str:
    """Leave a list of the old service in Redis; return its key."""
    at = int((time.time() - age_s) * 1000)
    entries = [
        {
            "id": f"{name}-{number}",
            "phone": f"5193024{number:04}",
            "message": f"text {number}",
            "createdAt": at + number,
        }
        | changes
        for number in range(count)
    ]
    web_client().rpush(f"queue:{name}", *(json.dumps(entry) for entry in entries))
    return f"queue:{name}"


def orphan_of(client: ApiClient, name: str) -> dict[str, Any]:
    """Have it found, and return it."""
    assert client.post("/whatsapp/reconciliations", {}).status == 201
    (item,) = client.get(f"/whatsapp/orphans?session={name}")["items"]
    return item


def test_a_reconciliation_answers_with_its_report() -> None:
    old_list("gone", 3)
    client = ApiClient()
    dry = client.post("/whatsapp/reconciliations", {"dry_run": True})
    assert (dry.status, dry["dry_run"], dry["trigger"], dry["outcome"]) == (201, True, "api", "findings")
    assert not Orphan.objects.exists()
    run = client.post("/whatsapp/reconciliations", {})
    (finding,) = run["findings"]
    assert (finding["kind"], finding["queue"], finding["session"], finding["messages"], finding["action"]) == (
        "legacy_queue", "queue:gone", "gone", 3, None,
    )  # fmt: skip
    assert [item["id"] for item in client.get("/whatsapp/reconciliations")["items"]] == [run["id"], dry["id"]]
    assert AuditEntry.objects.filter(action="run reconciliation").count() == 2


def test_a_reconciliation_of_one_session_looks_at_nothing_else_and_says_so() -> None:
    for name in ("gone", "lost"):
        old_list(name, 3)
    client = ApiClient()
    limited = client.post("/whatsapp/reconciliations", {"session": "gone"})
    assert (limited.status, limited["session"]) == (201, "gone")
    assert [finding["session"] for finding in limited["findings"]] == ["gone"]
    assert [orphan.session_name for orphan in Orphan.objects.all()] == ["gone"]
    whole = client.post("/whatsapp/reconciliations", {"session": None, "dry_run": True})
    assert (whole.status, whole["session"]) == (201, None)
    assert [item["session"] for item in client.get("/whatsapp/reconciliations")["items"]] == [None, "gone"]
    audited = AuditEntry.objects.filter(action="run reconciliation").order_by("pk")
    assert [entry.target for entry in audited] == ["gone", ""]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nobody", "no session, no queue and no orphan is called 'nobody'"),
        ("", "at least 1 long"),
        ("x" * 1001, "at most 1000 long"),
        ("a\0", "NUL byte"),
        (7, "has to be text"),
    ],
)
def test_a_reconciliation_of_what_nothing_is_called_is_refused_by_its_field(name: Any, why: str) -> None:
    refused = ApiClient().post("/whatsapp/reconciliations", {"session": name})
    assert refused.fields == ["session"]
    assert why in refused["errors"][0]["message"]
    assert not Reconciliation.objects.exists()


def test_a_live_orphan_is_listed_and_read_in_pages() -> None:
    old_list("gone", 5)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    assert (orphan["state"], orphan["source"], orphan["messages"]) == ("detected", "legacy", 5)
    pages = list(client.pages(f"/whatsapp/orphans/{orphan['id']}/messages", 2))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [entry["text"] for page in pages for entry in page] == [f"text {number}" for number in range(5)]


def test_an_orphan_is_archived_and_restored_into_another_session_in_order() -> None:
    key = old_list("gone", 9)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    client.post("/whatsapp/sessions", {"name": "other", "desired_state": "paused"})
    archived = client.post(f"/whatsapp/orphans/{orphan['id']}/archive")
    assert (archived.status, archived["orphan"]["state"]) == (200, "archived")
    assert not web_client().exists(key)
    done = client.post(f"/whatsapp/orphans/{orphan['id']}/restore", {"session": "other"})
    assert (done.status, done["restored"], done["orphan"]["state"]) == (200, 9, "restored")
    rows = Message.objects.filter(session__name="other").order_by("seq")
    assert [row.client_ref for row in rows] == [f"gone-{number}" for number in range(9)]
    again = client.post(f"/whatsapp/orphans/{orphan['id']}/restore", {"session": "other"})
    assert (again.status, again["code"], again["state"]) == (409, "conflict", "restored")


def test_only_some_messages_can_be_restored() -> None:
    old_list("gone", 4)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    client.post(f"/whatsapp/orphans/{orphan['id']}/archive")
    done = client.post(
        f"/whatsapp/orphans/{orphan['id']}/restore",
        {"session": "new", "create": True, "transport": "loopback", "only": {"ids": [1, 3]}},
    )
    assert (done["restored"], done["orphan"]["state"], done["orphan"]["messages"]) == (2, "archived", 2)
    assert set(Message.objects.values_list("client_ref", flat=True)) == {"gone-1", "gone-3"}


def test_a_session_that_is_made_for_a_restore_gets_what_was_chosen_and_no_more() -> None:
    old_list("gone", 9)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    path, wish = f"/whatsapp/orphans/{orphan['id']}/restore", {"create": True, "only": {"ids": [3]}}
    live = client.post(path, wish | {"transport": "loopback"})
    assert (live.status, live["code"]) == (409, "conflict")
    assert "archive it first" in live["detail"]
    client.post(f"/whatsapp/orphans/{orphan['id']}/archive")
    # A session on the wrong transport would mark as sent what went nowhere.
    for transport, why in ((None, "loopback or waha"), ("waha", "needs settings"), ("pigeon", "one of: loopback")):
        unclear = client.post(path, wish | {"transport": transport})
        assert (unclear.status, unclear["errors"][0]["field"]) == (422, "transport")
        assert why in unclear["errors"][0]["message"]
    assert not Session.objects.exists() and not Message.objects.exists()
    done = client.post(path, wish | {"transport": "loopback"})
    assert (done.status, done["restored"], done["orphan"]["messages"]) == (200, 1, 8)
    assert [message.text for message in Message.objects.all()] == ["text 3"]


def test_a_restore_of_many_is_done_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LARGE", 3)
    old_list("gone", 9)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    client.post("/whatsapp/sessions", {"name": "other", "desired_state": "paused"})
    done = client.post(f"/whatsapp/orphans/{orphan['id']}/restore", {"session": "other"})
    assert (done["restored"], done["session"], done["task"]["total"]) == (None, "other", 9)
    tasks.run(uuid.UUID(done["task"]["id"]))
    assert Message.objects.filter(session__name="other").count() == 9


@pytest.mark.fault(18)
def test_a_purge_with_another_number_than_there_is_deletes_nothing() -> None:
    key = old_list("gone", 9)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    old_list("gone", 1)
    refused = client.post(f"/whatsapp/orphans/{orphan['id']}/purge", {"expected_messages": 9})
    assert (refused.status, refused["code"], refused["messages"]) == (409, "orphan_changed", 10)
    assert web_client().llen(key) == 10
    done = client.post(f"/whatsapp/orphans/{orphan['id']}/purge", {"expected_messages": 10})
    assert (done.status, done["purged"], done["orphan"]["state"]) == (200, 10, "purged")
    assert not web_client().exists(key)


def test_a_new_session_gets_its_young_messages_back_and_is_told() -> None:
    old_list("gone", 9)
    made = ApiClient().post("/whatsapp/sessions", {"name": "gone"})
    assert (made.status, made["restored"], "orphan" in made.body) == (201, {"messages": 9}, False)
    assert Message.objects.filter(status=Status.QUEUED).count() == 9


def test_old_messages_wait_for_a_person_and_the_answer_says_so() -> None:
    old_list("gone", 9, age_s=90 * 3600)
    client = ApiClient()
    made = client.post("/whatsapp/sessions", {"name": "gone"})
    assert (made["orphan"]["messages"], "restored" in made.body) == (9, False)
    assert not Message.objects.exists()
    assert client.get(f"/whatsapp/orphans/{made['orphan']['id']}")["state"] == "archived"


def test_a_deleted_session_can_leave_its_messages_as_an_orphan() -> None:
    client = ApiClient()
    client.post("/whatsapp/sessions", {"name": "s", "desired_state": "paused"})
    sent = client.post("/whatsapp/sessions/s/messages", {"to": "+51930246633", "text": "x"})
    done = client.delete("/whatsapp/sessions/s?unsent=orphan")
    assert (done.status, done.body) == (200, {"session": "s", "cancelled": 0, "uncertain": 0, "orphaned": 1})
    message = client.get(f"/whatsapp/messages/{sent['id']}")
    assert message["status"] == "orphaned"
    (orphan,) = client.get("/whatsapp/orphans")["items"]
    assert (orphan["source"], message["orphan_id"]) == ("deleted_session", orphan["id"])


def test_an_export_holds_every_message_also_the_broken_ones() -> None:
    web_client().rpush("queue:gone", '{"phone":"51930246633","message":"=1+1"}', b"\x80\x04raw")
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    response = client._client.get(
        f"/whatsapp/orphans/{orphan['id']}/export?format=csv", headers={"Authorization": f"Bearer {client.plain}"}
    )
    body = b"".join(response.streaming_content).decode()
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    # A cell that a spreadsheet would take for a formula is made text.
    assert ",'=1+1," in body
    assert "\\x80\\x04raw" in body


def test_an_export_in_json_lines_holds_what_stood_there_byte_by_byte() -> None:
    entry = json.dumps(
        {
            "id": "m1", "phone": "51930246633", "type": "image", "media_url": "https://files.example/a.png",
            "caption": "c", "message": "x" * 5000,
        }
    )  # fmt: skip
    web_client().rpush("queue:gone", entry, b"\x80\x04raw", "=1+1")
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    first, second, third = (json.loads(line) for line in exported(client, orphan, "jsonl").splitlines())
    assert (first["raw"], first["raw_base64"]) == (entry, None)
    assert (first["type"], first["media_url"], first["caption"], first["client_ref"]) == (
        "image", "https://files.example/a.png", "c", "m1",
    )  # fmt: skip
    assert (second["raw"], base64.b64decode(second["raw_base64"])) == (None, b"\x80\x04raw")
    assert third["raw"] == "=1+1"
    table = list(csv.DictReader(io.StringIO(exported(client, orphan, "csv"))))
    assert [table[0][name] for name in ("type", "media_url", "caption", "client_ref")] == [
        "image", "https://files.example/a.png", "c", "m1",
    ]  # fmt: skip
    assert table[2]["raw"] == "'=1+1"
    assert [(entry.count, entry.data["format"]) for entry in AuditEntry.objects.filter(action="export orphan")] == [
        (3, "csv"), (3, "jsonl"),
    ]  # fmt: skip


def exported(client: ApiClient, orphan: dict[str, Any], form: str) -> str:
    path = f"/whatsapp/orphans/{orphan['id']}/export?format={form}"
    response = client._client.get(path, headers={"Authorization": f"Bearer {client.plain}"})
    return b"".join(response.streaming_content).decode()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_that_cannot_be_read_is_answered_so_before_its_first_byte(form: str) -> None:
    key = old_list("gone", 3)
    client = ApiClient()
    orphan = orphan_of(client, "gone")
    web_client().delete(key)
    web_client().set(key, "no list")
    answer = client.get(f"/whatsapp/orphans/{orphan['id']}/export?format={form}")
    assert (answer.status, answer["code"]) == (503, "queue_unavailable")
    assert not AuditEntry.objects.filter(action="export orphan").exists()


@pytest.mark.parametrize("path", ["orphans", "orphans/x", "orphans/01a20bdd-eaf4-7235-a8c8-191563c4a3ba/messages"])
def test_a_key_that_is_limited_to_sessions_sees_no_orphan(path: str) -> None:
    ApiClient().post("/whatsapp/sessions", {"name": "s"})
    answer = ApiClient(sessions=("s",)).get(f"/whatsapp/{path}")
    assert (answer.status, answer["code"]) == (403, "key_is_limited")


def test_acts_need_the_scope_to_manage() -> None:
    old_list("gone", 1)
    orphan = orphan_of(ApiClient(), "gone")
    for act, body in (("archive", None), ("restore", {"session": "x"}), ("purge", {"expected_messages": 1})):
        answer = ApiClient("read", "send").post(f"/whatsapp/orphans/{orphan['id']}/{act}", body)
        assert (answer.status, answer["code"]) == (403, "missing_scope")
    assert ApiClient("read").post("/whatsapp/reconciliations", {}).status == 403
