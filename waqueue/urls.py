"""Addresses: the API under /whatsapp, the admin under /admin, and what a load balancer asks."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("", include("sessions_app.api.urls")),
]
handler400 = "sessions_app.api.problems.bad_request"
handler403 = "sessions_app.api.problems.forbidden"
handler404 = "sessions_app.api.problems.not_found"
handler500 = "sessions_app.api.problems.server_error"
