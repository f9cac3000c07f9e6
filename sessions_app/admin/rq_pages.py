"""django-rq's own pages, for superusers only: they admit any staff, and can empty a queue without a trace."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, reverse
from django.utils.translation import gettext as _
from django_rq.admin import QueueAdmin
from django_rq.models import Dashboard

if TYPE_CHECKING:
    from sessions_app.admin.base import StockModelAdmin as Base
else:
    Base = QueueAdmin

log = logging.getLogger(__name__)


def _guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user = request.user
        if not user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("admin:login"))
        if not (user.is_active and user.is_superuser):
            raise PermissionDenied
        try:
            return view(request, *args, **kwargs)
        except (Http404, PermissionDenied):
            raise
        except Exception as error:
            # They stop at an id that is no text, a key of another type, a time that is none: anybody may have left it.
            log.warning("RQ's page %s failed: %s", request.path, type(error).__name__, exc_info=error)
            return _cannot_be_shown(request)

    return guarded


def _cannot_be_shown(request: HttpRequest) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": _("RQ's own page cannot show this")}
    return TemplateResponse(request, "admin/sessions_app/rq_failed.html", context, status=422)


class SuperuserQueueAdmin(Base):
    """django-rq's pages at the addresses they have, behind one lock."""

    def get_urls(self) -> list[URLPattern]:
        """Every address of django-rq, also those that it leaves open to its own tokens."""
        return [
            URLPattern(url.pattern, _guarded(url.callback), url.default_args, url.name) for url in super().get_urls()
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Shown on the front page to superusers."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Superusers."""
        return bool(request.user.is_active and request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """There is no row to change."""
        return False


if admin.site.is_registered(Dashboard):
    admin.site.unregister(Dashboard)
admin.site.register(Dashboard, SuperuserQueueAdmin)
