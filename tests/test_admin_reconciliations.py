"""Reconciliations and background tasks in the admin: what was found, row by row, and what runs for how long."""

import uuid
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from sessions_app.admin import reconciliations
from sessions_app.admin.phrases import said, said_in_turn
from sessions_app.exceptions import OtherDeployment, QueueUnavailable
from sessions_app.models import AuditEntry, BackgroundTask, FindingKind, Orphan, Reconciliation, TaskState, Trigger
from sessions_app.reconciliation.run import AlreadyRunning
from sessions_app.services import tasks, worklist
from tests.admin_lab import act_url, audited, boss, confirm, inline_parts, list_url, page_url, person, text_of
from tests.orphan_lab import HOSTILE, live
from tests.reconciliation_lab import in_order, legacy_list, run, stock_queue

pytestmark = pytest.mark.django_db(transaction=True)

RUN = ("view_reconciliation", "run_reconciliation")


def run_url(what: str = "run") -> str:
    """The address of the question."""
    return reverse(f"admin:sessions_app_reconciliation_{what}")


def test_a_dry_run_only_looks_and_leads_to_the_run(redis_client: redis.Redis) -> None:
    in_order()
    stock_queue(redis_client, "gone", ["x"])
    client = person(*RUN, "view_orphan")
    assert "Nothing is changed." in text_of(client.get(run_url("dry_run")))
    assert not Reconciliation.objects.exists()
    report = client.post(run_url("dry_run"), follow=True)
    done = Reconciliation.objects.get()
    assert (done.dry_run, done.trigger) == (True, Trigger.ADMIN)
    assert report.redirect_chain[-1][0] == page_url("reconciliation", done.pk)
    seen = text_of(report)
    for words in ("This was a dry run", "queue of no session", "wa:gone", "nothing yet", "Put it right now"):
        assert words in seen
    assert not Orphan.objects.exists() and redis_client.llen("rq:queue:wa:gone") == 1
    report = client.post(run_url("run"), follow=True)
    assert "Everything that it found was dealt with." in text_of(report)
    assert page_url("orphan", Orphan.objects.get().pk) in report.content.decode()
    assert [entry[1] for entry in audited()] == ["run reconciliation"] * 2
    assert list(AuditEntry.objects.order_by("id").values_list("data", flat=True)) == [
        {"dry_run": True}, {"dry_run": False},
    ]  # fmt: skip


def test_the_list_says_who_when_how_long_and_what(redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, "gone", ["x"])
    run(dry_run=True)
    seen = text_of(boss().get(list_url("reconciliation")))
    for words in ("Command (dry run)", "something is left", "list of the old service: 1", "just now"):
        assert words in seen
    assert "There was nothing to do" not in seen


def test_it_is_filtered_by_outcome_and_trigger() -> None:
    in_order()
    run()
    run(trigger=Trigger.TIMER)
    client = boss()

    def found(**filters: str) -> int:
        return len(client.get(list_url("reconciliation"), filters).context["cl"].result_list)

    assert (found(), found(trigger="timer"), found(outcome="clean"), found(outcome="failed")) == (2, 1, 2, 0)


def test_list_and_report_cost_as_much_for_many_as_for_one(redis_client: redis.Redis) -> None:
    client = boss()

    def cost(url: str) -> int:
        client.get(url)
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url).status_code == 200
        return len(queries)

    in_order()
    legacy_list(redis_client, "gone", ["x"])
    one = run(dry_run=True)
    for_one = (cost(list_url("reconciliation")), cost(page_url("reconciliation", one.pk)))
    for at in range(20):
        legacy_list(redis_client, f"gone-{at}", ["x"])
    many = run(dry_run=True)
    assert many.findings.count() == 21
    assert (cost(list_url("reconciliation")), cost(page_url("reconciliation", many.pk))) == for_one


def test_a_long_report_is_read_in_pages(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliations, "_PER_PAGE", 3)
    in_order()
    for at in range(7):
        legacy_list(redis_client, f"gone-{at}", ["x"])
    url = page_url("reconciliation", run().pk)
    client = boss()
    seen = [row["queue"] for page in "123" for row in client.get(url, {"p": page}).context["rows"]]
    assert sorted(seen) == [f"queue:gone-{at}" for at in range(7)]


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_escaped_in_the_report(name: str, redis_client: redis.Redis) -> None:
    in_order()
    legacy_list(redis_client, name, ["x"])
    for url in (page_url("reconciliation", run().pk), list_url("reconciliation"), run_url(), run_url("dry_run")):
        response = boss().get(url)
        assert inline_parts(response) == []
        assert "<script>alert" not in response.content.decode()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AlreadyRunning(), "Another reconciliation is running just now"),
        (QueueUnavailable("Redis cannot be reached: x"), "Redis cannot be reached: nothing was looked at"),
        (OtherDeployment("this Redis belongs to the waqueue database x"), "belongs to another waqueue"),
        (RuntimeError("a fault"), "The reconciliation failed: RuntimeError: a fault"),
    ],
)
def test_what_keeps_it_from_running_is_said(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(reconciliations, "reconcile", refuse)
    assert said in text_of(person(*RUN).post(run_url(), follow=True))


def test_running_needs_its_permission_and_sight() -> None:
    for client in (person("view_reconciliation"), person("run_reconciliation")):
        for what in ("run", "dry_run"):
            assert client.get(run_url(what)).status_code == 403
            assert client.post(run_url(what)).status_code == 403
    assert not Reconciliation.objects.exists()
    assert run_url() not in person("view_reconciliation").get(list_url("reconciliation")).content.decode()
    assert run_url() in person(*RUN).get(list_url("reconciliation")).content.decode()
    assert person("run_reconciliation").get(list_url("reconciliation")).status_code == 403


def test_what_services_write_is_said_in_words() -> None:
    key = uuid.uuid4()
    assert said(f"left in Redis for a person to decide: orphan {key}") == "left in Redis: a person decides"
    assert said(f"3 messages into a, 2 wait for a person: orphan {key}") == "given to a: 3, waiting for a person: 2"
    assert said("something 100% new: %(x)s") == "something 100% new: %(x)s"
    assert said_in_turn("3 messages restored to a%s; 2 messages purged") == "restored to a%s: 3; purged: 2"


def test_the_front_page_is_not_healthy_when_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("sessions_app.reconciliation.run.compare", broken)
    client = boss()
    assert client.post(run_url(), follow=True).status_code == 200
    page = client.get("/admin/")
    assert not page.context["is_healthy"]
    assert "RuntimeError: a fault" in text_of(page)
    assert "Redis is not put right" not in text_of(person("view_message").get("/admin/"))


# Background tasks


def make_task(**fields: Any) -> BackgroundTask:
    """A task that somebody has asked for."""
    values = {"kind": "purge orphan", "title": "purge queue:gone", "actor": "ana", "total": 2000, "done": 500}
    return BackgroundTask.objects.create(**values | fields)


def test_a_task_says_how_far_it_is_and_is_cancelled_after_a_question(redis_client: redis.Redis) -> None:
    task = make_task(state=TaskState.RUNNING, parameters={"orphan": str(live(redis_client).pk)})
    client = person("view_backgroundtask", "purge_orphan", "view_orphan")
    page = client.get(page_url("backgroundtask", task.pk))
    for words in ("Purge queue:gone", "500 of 2000", "ana", "running", "see the orphan"):
        assert words in text_of(page)
    assert 'data-refresh-ms="3000"' in page.content.decode()
    assert inline_parts(page) == []
    assert "Cancel 1 background task?" in text_of(client.get(act_url("backgroundtask", "cancel-purge", task.pk)))
    assert not BackgroundTask.objects.get().is_cancel_requested
    seen = text_of(confirm(client, "backgroundtask", "cancel-purge", task.pk))
    assert "1 background task was asked to end." in seen and "is being cancelled" in seen
    assert BackgroundTask.objects.get().is_cancel_requested
    assert [entry[1:] for entry in audited()] == [("cancel task", "purge queue:gone")]


def test_a_task_that_ended_meanwhile_is_left_alone() -> None:
    task = make_task(state=TaskState.DONE, done=2000)
    client = boss()
    assert "1 was left alone" in text_of(confirm(client, "backgroundtask", "cancel-purge", task.pk))
    page = client.get(page_url("backgroundtask", task.pk)).content.decode()
    assert "data-refresh-ms" not in page and "/act/" not in page


@pytest.mark.parametrize(
    ("kind", "act", "permission"),
    [("restore orphan", "cancel-restore", "restore_orphan"), ("purge orphan", "cancel-purge", "purge_orphan")],
)
def test_cancelling_needs_the_permission_of_what_is_cancelled(kind: str, act: str, permission: str) -> None:
    task = make_task(kind=kind)
    other = {"restore_orphan", "purge_orphan"} - {permission}
    client = person("view_backgroundtask", *other)
    assert client.get(act_url("backgroundtask", act, task.pk)).status_code == 403
    assert "/act/" not in client.get(page_url("backgroundtask", task.pk)).content.decode()
    confirm(client, "backgroundtask", {"cancel-restore": "cancel-purge"}.get(act, "cancel-restore"), task.pk)
    assert not BackgroundTask.objects.get().is_cancel_requested
    assert person("restore_orphan").get(page_url("backgroundtask", task.pk)).status_code == 403


def test_a_failed_task_needs_a_person_and_says_so_on_the_front_page() -> None:
    task = make_task(kind="nothing known")
    tasks.run(task.pk)
    (item,) = [item for item in worklist.items() if item.kind == "task_failed"]
    assert item.detail == "purge queue:gone"
    client = boss()
    response = client.get("/admin/")
    lines = {line.text: line.url for line in response.context["lines"]}
    url = lines["A background task failed: Purge queue:gone"]
    assert [row.pk for row in client.get(url).context["cl"].result_list] == [task.pk]


def test_orphans_that_wait_are_on_the_front_page(redis_client: redis.Redis) -> None:
    live(redis_client, "gone", 9)
    run()
    seen = boss().get("/admin/")
    assert "9 messages for gone wait in an orphan and are not sent." in text_of(seen)
    assert "1 orphan waits for a decision." in text_of(seen)
    hidden = text_of(person("view_session").get("/admin/"))
    assert "for gone" not in hidden and "Something needs a person who may see more than you do." in hidden


def test_every_kind_of_finding_has_its_words(redis_client: redis.Redis) -> None:
    done = Reconciliation.objects.create(trigger="timer", started_at=make_task().created_at, outcome="repaired")
    for kind in FindingKind:
        done.findings.create(kind=kind, queue="wa:x", action="put right")
    seen = text_of(boss().get(page_url("reconciliation", done.pk)))
    for kind in FindingKind:
        assert str(kind.label) in seen
