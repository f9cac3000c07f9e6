"""The addresses of the API. None ends in a slash, so that Django never redirects one to another."""

from django.urls import URLPattern, URLResolver, path

from sessions_app.api.site import api

urlpatterns: list[URLPattern | URLResolver] = [path("", api.urls)]
