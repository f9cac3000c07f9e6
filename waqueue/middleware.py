"""Middleware of libraries, bent to what this project knows of its requests and answers."""

import ipaddress
from typing import Any

import structlog
from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest
from django.middleware.locale import LocaleMiddleware
from django.utils import translation
from django_structlog.middlewares import RequestMiddleware


class RequestLogMiddleware(RequestMiddleware):  # type: ignore[misc]
    """One log line for each request, with the client's address as the nearest one who can be trusted saw it.

    The library's own way takes what the client itself claims, and as long as a query of the database.
    """

    @classmethod
    def bind_ip(cls, request: HttpRequest) -> None:
        """Log who asked: behind the proxy that makes our address https, whom the proxy saw; else who is connected."""
        seen = request.META.get("HTTP_X_FORWARDED_FOR", "") if settings.SECURE_PROXY_SSL_HEADER else ""
        # What stands before the last was sent by the client.
        nearest = seen.rpartition(",")[2].strip()
        structlog.contextvars.bind_contextvars(ip=nearest if is_ip(nearest) else request.META.get("REMOTE_ADDR"))


class ContentSecurityMiddleware(CSPMiddleware):  # type: ignore[misc]
    """The policy of pages. An answer that brings a policy of its own keeps it, and none is written for it."""

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        """Add the policy, unless there is one."""
        return response if HEADER in response else super().process_response(request, response)


def is_ip(text: str) -> bool:
    """Whether a text is an address of IP."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _PagesOnly:
    """Leaves the API alone, which knows no cookies and no languages: its requests bear `is_api`."""

    def __call__(self, request: HttpRequest) -> Any:
        if getattr(request, "is_api", False):
            return self.get_response(request)  # type: ignore[attr-defined]
        return super().__call__(request)  # type: ignore[misc]


class PageSessionMiddleware(_PagesOnly, SessionMiddleware):
    """A browser's login, of pages."""


class PageLocaleMiddleware(_PagesOnly, LocaleMiddleware):
    """The language of pages. It stays with the thread: who asks the API next is not to be answered in it."""

    def __call__(self, request: HttpRequest) -> Any:
        if getattr(request, "is_api", False):
            translation.activate(settings.LANGUAGE_CODE)
        return super().__call__(request)


class PageAuthenticationMiddleware(_PagesOnly, AuthenticationMiddleware):
    """Who looks at pages."""


class PageMessageMiddleware(_PagesOnly, MessageMiddleware):
    """What is said on the next page."""
