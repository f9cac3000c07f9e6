"""The entry for an ASGI server, for those who already run one."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
os.environ.setdefault("WAQUEUE_SERVES", "web")

application = get_asgi_application()
