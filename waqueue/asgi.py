"""The entry for an ASGI server, for those who already run one."""

import os

from django.core.asgi import get_asgi_application

from waqueue import serving
from waqueue.garbage import collect_seldom

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
# Only a process that serves begins a reconciliation: see SessionsAppConfig.ready.
serving.declare()

application = get_asgi_application()
collect_seldom()
