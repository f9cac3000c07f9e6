"""Who may do what: the ready-made groups, the audit of people and groups, and django-rq's pages behind their lock."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.test import Client
from django.urls import reverse

from sessions_app.admin.groups import GROUPS
from sessions_app.models import Status
from tests.admin_lab import act_url, audited, boss, list_url, page_url, person
from tests.factories import become, make_session, submit

pytestmark = pytest.mark.django_db

RQ = [
    ("home", {}),
    ("home_json", {}),
    ("jobs", {"queue_index": 0}),
    ("queue_details", {"queue_index": 0}),
    ("clear", {"queue_index": 0}),
    ("requeue_all", {"queue_index": 0}),
    ("delete_failed_jobs", {"queue_index": 0}),
    ("actions", {"queue_index": 0}),
    ("workers", {"queue_index": 0}),
    ("job_detail", {"queue_index": 0, "job_id": "x"}),
    ("delete_job", {"queue_index": 0, "job_id": "x"}),
]


def _groups() -> dict[str, set[str]]:
    return {
        group.name: set(group.permissions.values_list("codename", flat=True))
        for group in Group.objects.order_by("name")
    }


def _migrate_again() -> None:
    for emit in (emit_pre_migrate_signal, emit_post_migrate_signal):
        emit(verbosity=0, interactive=False, db="default")


def test_the_ready_made_groups_are_there_with_their_permissions() -> None:
    assert _groups() == GROUPS


def test_what_people_change_about_a_group_stays() -> None:
    operator = Group.objects.get(name="Operator")
    operator.permissions.remove(Permission.objects.get(codename="view_message_content"))
    operator.permissions.add(Permission.objects.get(codename="view_auditentry"))
    _migrate_again()
    assert _groups()["Operator"] == (GROUPS["Operator"] - {"view_message_content"}) | {"view_auditentry"}


def test_a_permission_that_a_later_version_brings_is_given_once() -> None:
    Permission.objects.filter(content_type__app_label="sessions_app", codename="view_event").delete()
    _migrate_again()
    assert _groups() == GROUPS


def test_a_group_that_was_deleted_comes_back_whole() -> None:
    Group.objects.get(name="Viewer").delete()
    _migrate_again()
    assert _groups() == GROUPS


def test_every_permission_of_a_group_exists() -> None:
    known = set(Permission.objects.filter(content_type__app_label="sessions_app").values_list("codename", flat=True))
    assert set().union(*GROUPS.values()) <= known


@pytest.mark.parametrize(
    ("group", "may"),
    [
        ("Viewer", {"see"}),
        ("Operator", {"see", "operate"}),
        ("Administrator", {"see", "operate", "administer"}),
    ],
)
def test_each_group_may_what_its_name_says(group: str, may: set[str]) -> None:
    session = make_session()
    message = become(submit(session, "x")[0], Status.FAILED)
    client = person(group=group)
    addresses = {
        "see": [list_url(model) for model in ("session", "message", "worker", "loopbackentry", "event")]
        + [page_url("session", session.pk), page_url("message", message.pk), "/admin/"],
        "operate": [act_url("message", "retry", message.pk), act_url("session", "pause", session.pk)],
        "administer": [
            "/admin/sessions_app/session/add/", "/admin/sessions_app/apikey/add/", list_url("auditentry"),
            reverse("admin:sessions_app_session_settings", args=[session.pk]),
            reverse("admin:sessions_app_session_delete", args=[session.pk]),
        ],
    }  # fmt: skip
    for what, urls in addresses.items():
        for url in urls:
            assert client.get(url).status_code == (200 if what in may else 403), (what, url)
    for url in ("/admin/auth/user/", "/admin/auth/group/", "/admin/django_rq/dashboard/"):
        assert client.get(url).status_code == 403


@pytest.mark.parametrize(("name", "arguments"), RQ, ids=[name for name, _ in RQ])
def test_the_pages_of_rq_are_for_superusers(name: str, arguments: dict[str, Any]) -> None:
    url = reverse(f"admin:django_rq_{name}", kwargs=arguments)
    staff = person(group="Administrator")
    User.objects.filter(username__startswith="person").first().user_permissions.add(  # type: ignore[union-attr]
        *Permission.objects.filter(content_type__app_label="django_rq")
    )
    assert staff.get(url).status_code == 403
    assert staff.post(url, {}).status_code == 403
    anonymous = Client().get(url)
    assert anonymous.status_code == 302
    assert reverse("admin:login") in anonymous.headers["Location"]


def test_every_address_of_rq_is_behind_the_lock() -> None:
    from django.contrib import admin
    from django_rq.models import Dashboard

    urls = admin.site._registry[Dashboard].get_urls()
    assert len(urls) > 25
    staff = User.objects.create(username="staff", is_staff=True)
    from django.core.exceptions import PermissionDenied
    from django.test import RequestFactory

    request = RequestFactory().get("/")
    request.user = staff
    for url in urls:
        with pytest.raises(PermissionDenied):
            url.callback(request)


def test_a_superuser_sees_the_pages_of_rq_and_the_way_there() -> None:
    client = boss()
    url = reverse("admin:django_rq_home")
    assert client.get(url).status_code == 200
    assert client.get(reverse("admin:django_rq_home_json")).status_code == 200
    assert url in client.get("/admin/").content.decode()
    assert "django_rq" not in person(group="Administrator").get("/admin/").content.decode()


def test_what_is_done_to_people_and_groups_is_written_down() -> None:
    client = boss()
    client.post(
        "/admin/auth/user/add/",
        {"username": "ana", "password1": "long-enough-77", "password2": "long-enough-77", "usable_password": "true"},
    )
    ana = User.objects.get(username="ana")
    client.post(
        f"/admin/auth/user/{ana.pk}/password/", {"password1": "other-enough-77", "password2": "other-enough-77"}
    )
    client.post(
        "/admin/auth/group/add/",
        {"name": "Night shift", "permissions": [Permission.objects.get(codename="operate_message").pk]},
    )
    client.post(f"/admin/auth/user/{ana.pk}/delete/", {"post": "yes"})
    assert [entry[1:] for entry in audited()] == [
        ("add user", "ana"), ("change user", "ana"), ("add group", "Night shift"), ("delete user", "ana"),
    ]  # fmt: skip
    assert "enough-77" not in str(audited())


def test_the_admin_knows_every_one_of_its_pages() -> None:
    from django.contrib import admin

    registered = {model._meta.model_name for model in admin.site._registry if model._meta.app_label == "sessions_app"}
    assert registered == {
        "session", "message", "worker", "loopbackentry", "event", "apikey", "auditentry", "orphan", "reconciliation",
        "backgroundtask", "batch",
    }  # fmt: skip
    assert apps.get_app_config("sessions_app")
