"""The admin site with our own front page."""

from django.contrib.admin import AdminSite


class WaqueueAdminSite(AdminSite):
    """Django's admin, named."""

    site_header = site_title = "waqueue"
