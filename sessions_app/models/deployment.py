"""Deployment: which database this is, and which Redis it has last put in order."""

import uuid

from django.db import models


class Deployment(models.Model):
    """One row. Its `id` is written into Redis: another database's Redis is recognised and left alone."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Always true, and unique: there is one row.
    only = models.BooleanField(default=True, unique=True, editable=False)
    # The generation of Redis whose queues were last rebuilt; another one means that Redis was wiped or restarted.
    redis_generation = models.CharField(max_length=64, blank=True, default="")
    # Tokens up to this one count as given out, whatever attempts there are: raised to the mark of Redis when an older
    # database was put right. Whoever prunes attempts has to raise it to the highest token first.
    known_token = models.BigIntegerField(default=0, editable=False)

    class Meta:
        db_table = "wa_deployment"
        constraints = [models.CheckConstraint(condition=models.Q(only=True), name="wa_deployment_one_row")]

    def __str__(self) -> str:
        return str(self.id)

    @classmethod
    def current(cls) -> "Deployment":
        """The row; made when the database is new."""
        return cls.objects.get_or_create(only=True)[0]
