"""People for tests of the admin, and what they see on a page."""

import re
from html.parser import HTMLParser
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from sessions_app.models import AuditEntry


def person(*permissions: str, group: str = "", is_superuser: bool = False) -> Client:
    """A logged-in member of the staff who holds these permissions of our app, or those of a group."""
    user = User.objects.create(
        username=f"person-{User.objects.count()}", is_staff=True, is_superuser=is_superuser, is_active=True
    )
    user.user_permissions.add(
        *Permission.objects.filter(content_type__app_label="sessions_app", codename__in=permissions)
    )
    assert user.user_permissions.count() == len(permissions), "no such permission"
    if group:
        user.groups.add(Group.objects.get(name=group))
    client = Client(enforce_csrf_checks=False)
    client.force_login(user)
    return client


def boss() -> Client:
    """A superuser."""
    return person(is_superuser=True)


def list_url(model: str) -> str:
    """The address of a list."""
    return reverse(f"admin:sessions_app_{model}_changelist")


def page_url(model: str, key: Any) -> str:
    """The address of a row's page."""
    return reverse(f"admin:sessions_app_{model}_change", args=[key])


def act_url(model: str, act: str, *keys: Any) -> str:
    """The address of the question of an act about some rows."""
    url = reverse(f"admin:sessions_app_{model}_act", args=[act])
    return f"{url}?ids={','.join(str(key) for key in keys)}" if keys else url


def confirm(client: Client, model: str, act: str, *keys: Any) -> Any:
    """Say yes to the question, and follow to the page that reports."""
    data = {"ids": ",".join(str(key) for key in keys), "confirmed": "yes"}
    return client.post(act_url(model, act), data, follow=True)


def text_of(response: Any) -> str:
    """What one reads on a page, without tags, in one line."""
    assert response.status_code == 200, response.status_code
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def audited() -> list[tuple[str, str, str]]:
    """Who did what to what, oldest first, but for what the tests' own factories did."""
    entries = AuditEntry.objects.exclude(actor="command test").order_by("id")
    return list(entries.values_list("actor", "action", "target"))


class InlineFinder(HTMLParser):
    """Finds what a strict content security policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note inline scripts, styles and handlers."""
        names = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]


def inline_parts(response: Any) -> list[str]:
    """What of a page a strict content security policy forbids."""
    finder = InlineFinder()
    finder.feed(response.content.decode())
    return finder.found
