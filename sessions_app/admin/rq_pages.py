"""django-rq's own pages, for superusers only: they admit any staff, and can empty a queue without a trace."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse
from django_rq.admin import QueueAdmin
from django_rq.models import Dashboard

if TYPE_CHECKING:
    from sessions_app.admin.base import StockModelAdmin as Base
else:
    Base = QueueAdmin


def _only_superusers(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user = request.user
        if not user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("admin:login"))
        if not (user.is_active and user.is_superuser):
            raise PermissionDenied
        return view(request, *args, **kwargs)

    return guarded


class SuperuserQueueAdmin(Base):
    """django-rq's pages at the addresses they have, behind one lock."""

    def get_urls(self) -> list[URLPattern]:
        """Every address of django-rq, also those that it leaves open to its own tokens."""
        return [
            URLPattern(url.pattern, _only_superusers(url.callback), url.default_args, url.name)
            for url in super().get_urls()
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
