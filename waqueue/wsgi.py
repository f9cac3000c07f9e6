"""The web server's entry: `gunicorn waqueue.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
# Only a process that serves may begin a reconciliation: see SessionsAppConfig.ready.
os.environ.setdefault("WAQUEUE_SERVES", "web")

application = get_wsgi_application()
