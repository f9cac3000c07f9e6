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
        apps = super().get_app_list(request, app_label)
        for app in apps:
            if app["app_label"] == "django_rq":
                app["name"] = _("RQ, for superusers")
            app["models"].sort(key=lambda entry: getattr(self._registry.get(entry["model"]), "position", 1000))
        return sorted(apps, key=lambda app: app["app_label"] != "sessions_app")
