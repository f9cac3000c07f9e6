"""What Django is told of this app."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig

from waqueue import serving


class SessionsAppConfig(AppConfig):
    """The domain: sessions, their messages, and the queues between them."""

    name = "sessions_app"
    verbose_name = "WhatsApp"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks, admin pages and groups, make RQ harmless; have a serving process begin a reconciliation."""
        from sessions_app import checks  # noqa: F401
        from sessions_app.admin import groups, pages  # noqa: F401
        from sessions_app.queues.harmless import make_rq_harmless
        from sessions_app.reconciliation import startup

        make_rq_harmless()
        groups.connect(self)
        serving.when_serving(startup.begin)


class SessionsAdminConfig(AdminConfig):
    """Django's admin with our own front page."""

    default_site = "sessions_app.admin.site.WaqueueAdminSite"
