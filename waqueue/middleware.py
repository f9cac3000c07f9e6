"""Middleware of libraries, bent to what this project knows of its requests and answers."""

from typing import Any

import structlog
from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from django.conf import settings
from django.http import HttpRequest
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
        structlog.contextvars.bind_contextvars(ip=seen.rpartition(",")[2].strip() or request.META.get("REMOTE_ADDR"))


class ContentSecurityMiddleware(CSPMiddleware):  # type: ignore[misc]
    """The policy of pages. An answer that brings a policy of its own keeps it, and none is written for it."""

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        """Add the policy, unless there is one."""
        return response if HEADER in response else super().process_response(request, response)
