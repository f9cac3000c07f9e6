"""ApiKey: who may call the API, and for what."""

import hashlib
import secrets
import zlib

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from sessions_app.models.session import Session

_PREFIX = "waq"


class Scope(models.TextChoices):
    READ = "read", _("read")
    SEND = "send", _("send")
    MANAGE = "manage", _("manage")


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def digest(key: str) -> str:
    """What is stored of a key: SHA-256 is enough for 256 random bits, and costs microseconds a request."""
    return hashlib.sha256(key.encode()).hexdigest()


def looks_like_a_key(key: str) -> bool:
    """Whether `key` was ever made by waqueue: a typing error is told without a look into the database."""
    parts = key.split("_")
    return len(parts) == 4 and parts[0] == _PREFIX and parts[3] == _checksum("_".join(parts[:3]))


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def valid(self) -> "ApiKeyQuerySet":
        """Neither revoked nor expired."""
        now = timezone.now()
        return self.filter(revoked_at=None).filter(Q(expires_at=None) | Q(expires_at__gt=now))


class ApiKey(models.Model):
    """A secret of 256 bits with a prefix to recognise it by. Only its digest is kept."""

    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("prefix"), max_length=8, unique=True)
    secret_digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(_("scopes"), default=list)
    # Empty: all sessions.
    sessions = models.ManyToManyField(Session, verbose_name=_("sessions"), blank=True, related_name="+")
    is_limited = models.BooleanField(_("only the sessions chosen"), default=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        db_table = "wa_api_key"
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["name"]
        permissions = [("manage_apikey", _("Can create and revoke API keys"))]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"

    @classmethod
    def build(cls, name: str, scopes: list[str]) -> tuple["ApiKey", str]:
        """An unsaved key and its plain text, which is never to be seen again."""
        prefix = secrets.token_hex(4)
        body = f"{_PREFIX}_{prefix}_{secrets.token_hex(32)}"
        key = f"{body}_{_checksum(body)}"
        return cls(name=name, prefix=prefix, secret_digest=digest(key), scopes=sorted(scopes)), key
