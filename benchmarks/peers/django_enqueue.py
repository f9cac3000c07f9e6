"""The least that a Django project does to queue a message: one view, one INSERT and one stock `enqueue`.

gunicorn loads it as `benchmarks.peers.django_enqueue`.
"""

import json
import os

import dj_database_url
import django
import redis
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.http import HttpRequest, JsonResponse
from django.urls import path
from rq import Queue

settings.configure(
    SECRET_KEY="peer",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=None)},
    USE_TZ=True,
)
django.setup()

_redis = redis.Redis.from_url(os.environ["REDIS_URL"])


class Message(models.Model):
    """A row of the table that `django_peer` makes."""

    id = models.BigAutoField(primary_key=True)
    session = models.TextField()
    recipient = models.TextField()
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "peer"
        managed = False
        db_table = '"peer"."message"'

    def __str__(self) -> str:
        return f"{self.session}: {self.pk}"


def send(request: HttpRequest, name: str) -> JsonResponse:
    """Keep one message, and queue its job."""
    said = json.loads(request.body)
    message = Message(session=name, recipient=said["to"], text=said["text"])
    message.save(force_insert=True)
    Queue(f"peer:{name}", connection=_redis).enqueue("benchmarks.peers.rq_peer.job", message.pk)
    return JsonResponse({"id": message.pk}, status=202)


urlpatterns = [path("whatsapp/sessions/<str:name>/messages", send)]
application = get_wsgi_application()
