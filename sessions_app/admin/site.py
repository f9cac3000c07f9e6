"""The admin site with our own front page."""

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _


class WaqueueAdminSite(AdminSite):
    """Django's admin, named, with what needs a person in front and our pages in the order of their use."""

    site_header = site_title = "waqueue"
    index_title = _("Overview")
    index_template = "admin/sessions_app/overview.html"
    # The address of the site is this admin itself.
    site_url = None

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The front page."""
        from sessions_app.admin import overview

        return super().index(request, overview.context(request) | (extra_context or {}))

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Our own app first, its pages in the order in which they are needed."""
        from sessions_app.admin import queues

        apps = super().get_app_list(request, app_label)
        for app in apps:
            if app["app_label"] == "sessions_app" and (entry := queues.entry(request)):
                app["models"].append(entry)
            if app["app_label"] == "django_rq":
                app["name"] = _("RQ, for superusers")
            app["models"].sort(key=self._position)
        return sorted(apps, key=lambda app: app["app_label"] != "sessions_app")

    def get_urls(self) -> list[Any]:
        """Django's, and those of the page that is no model's."""
        from sessions_app.admin import queues

        return [*queues.urls(self), *super().get_urls()]

    def _position(self, entry: dict[str, Any]) -> int:
        page = self._registry.get(entry["model"])
        return entry["position"] if "position" in entry else getattr(page, "position", 1000)
