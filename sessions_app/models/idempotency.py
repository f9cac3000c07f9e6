"""IdempotencyKey: the first answer to a request, so that a repeat of it makes nothing new."""

from django.db import models

from sessions_app.models.api_key import ApiKey


class IdempotencyKey(models.Model):
    """Written in the transaction of what the request made; kept 24 hours."""

    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    # SHA-256 of method, path and body: the same key with another request is refused.
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    body = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        db_table = "wa_idempotency_key"
        constraints = [
            # One answer per caller and key: the promise itself.
            models.UniqueConstraint(fields=["api_key", "key"], name="wa_idempotency_key_once"),
        ]

    def __str__(self) -> str:
        return self.key
