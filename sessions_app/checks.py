"""Configuration errors that `manage.py check` finds before the first message does."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register()
def check_region(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """The default region has to be one that phone numbers know."""
    import phonenumbers

    region = settings.WAQUEUE_DEFAULT_REGION
    if region and region not in phonenumbers.SUPPORTED_REGIONS:
        return [
            Error(
                f"WAQUEUE_DEFAULT_REGION is {region!r}, which is no region of phone numbers.",
                hint="Take the two letters of a country, like PE or ES, or leave it empty.",
                id="waqueue.E001",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_public_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """Without a public address nothing tells Django whether people come by https."""
    if not settings.PUBLIC_URL:
        return [
            Warning(
                "WAQUEUE_PUBLIC_URL is not set, so cookies, redirects and HSTS assume plain HTTP.",
                hint="Set it to the address by which people reach the admin, like https://waqueue.example.org",
                id="waqueue.W001",
            )
        ]
    return []
