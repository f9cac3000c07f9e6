"""The addresses of the API."""

from django.urls import URLPattern, URLResolver, path

from sessions_app.api.site import api

_patterns, _app_name, _namespace = api.urls
# Ninja's own root only tells where it is, and here that is the site's front page.
_addresses = [pattern for pattern in _patterns if getattr(pattern, "name", None) != "api-root"]

urlpatterns: list[URLPattern | URLResolver] = [path("", (_addresses, _app_name, _namespace))]
