"""The web server's entry: `gunicorn waqueue.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

from waqueue import serving
from waqueue.garbage import collect_seldom

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
# Only a process that serves begins a reconciliation: see SessionsAppConfig.ready.
serving.declare()

application = get_wsgi_application()
collect_seldom()
