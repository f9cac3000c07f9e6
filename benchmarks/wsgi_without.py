"""waqueue's web application without the reconciliation that a start begins: `waqueue/wsgi.py` but for one line."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")

application = get_wsgi_application()
