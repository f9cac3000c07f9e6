"""All of waqueue's configuration, read from the environment once. `docs/operations.md` documents each variable.

Nothing here connects to anything: a wrong value is an `ImproperlyConfigured` that names its variable.
"""

import warnings
from pathlib import Path
from urllib.parse import urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError, validate

from waqueue.ages import parse_age
from waqueue.encryption import parse_keys
from waqueue.logs import configure_logging

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env(eager=False, prefix="WAQUEUE_")
stores = Env(eager=False)
POLICIES = ["report", "archive", "purge"]

DATABASE_URL = stores.str("DATABASE_URL", default="")
REDIS_URL = stores.str("REDIS_URL", default="")
SECRET_KEY = env.str("SECRET_KEY", default="")
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", default=[])
ENCRYPTION_KEYS: list[str] = env.list("ENCRYPTION_KEYS", default=[])
DEBUG = env.bool("DEBUG", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
PUBLIC_URL = env.str("PUBLIC_URL", default="")
LANGUAGE_CODE = env.str("LANGUAGE", default="en", validate=validate.OneOf(["en", "es"]))
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]))
LOG_FORMAT = env.str("LOG_FORMAT", default="text", validate=validate.OneOf(["text", "json"]))
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", default=8, validate=validate.Range(min=1))
DATA_UPLOAD_MAX_MEMORY_SIZE = env.int("MAX_BODY_BYTES", default=16 * 1024 * 1024, validate=validate.Range(min=1024))
# Ten thousand texts of the 4,096 characters that WhatsApp takes fit.
WAQUEUE_MAX_BATCH_BYTES = env.int("MAX_BATCH_BYTES", default=48 * 1024 * 1024, validate=validate.Range(min=1024))

# Sending. How each is used stands where it is used, in `sessions_app/worker/`.
WAQUEUE_CONCURRENCY = env.int("CONCURRENCY", default=200, validate=validate.Range(min=1))
WAQUEUE_TRANSPORT_CONCURRENCY: dict[str, int] = env.dict("TRANSPORT_CONCURRENCY", default={}, subcast_values=int)
WAQUEUE_SEND_SECONDS = env.float("SEND_SECONDS", default=60.0, validate=validate.Range(min=1, max=600))
# When an engine is asked about an uncertain message, counted from when it became so; empty asks never.
WAQUEUE_LOOK_UP_SECONDS: list[float] = env.list("LOOK_UP_SECONDS", default=[3, 15, 60], subcast=float)
WAQUEUE_DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=60.0, validate=validate.Range(min=0))
WAQUEUE_MAX_ATTEMPTS = env.int("MAX_ATTEMPTS", default=5, validate=validate.Range(min=1))
# Reconciliation. What its policies do stands in `sessions_app/reconciliation/repair.py`.
WAQUEUE_RECONCILE_SECONDS = env.float("RECONCILE_SECONDS", default=60.0, validate=validate.Range(min=1))
WAQUEUE_ORPHAN_POLICY = env.str("ORPHAN_POLICY", default="archive", validate=validate.OneOf(POLICIES))
WAQUEUE_LEGACY_POLICY = env.str("LEGACY_POLICY", default="report", validate=validate.OneOf(POLICIES))
WAQUEUE_LEGACY_PREFIX = env.str("LEGACY_PREFIX", default="queue:")
RESTORE_MAX_AGE = env.str("RESTORE_MAX_AGE", default="24h")
WAQUEUE_DEFAULT_REGION = env.str("DEFAULT_REGION", default="").upper()

try:
    env.seal()
    stores.seal()
except EnvError as error:
    raise ImproperlyConfigured(f"the environment of waqueue does not fit: {error}") from error

for variable, value, example in (
    ("DATABASE_URL", DATABASE_URL, "postgresql://user:password@127.0.0.1:5432/waqueue"),
    ("REDIS_URL", REDIS_URL, "redis://:password@127.0.0.1:6379/0"),
    ("WAQUEUE_SECRET_KEY", SECRET_KEY, "fifty or more random characters"),
):
    if not value:
        raise ImproperlyConfigured(
            f"{variable} is not set: give it a value ({example}), or start everything at once with `make run`"
        )
for transport, limit in WAQUEUE_TRANSPORT_CONCURRENCY.items():
    if limit < 1:
        raise ImproperlyConfigured(f"WAQUEUE_TRANSPORT_CONCURRENCY: {transport}={limit} has to be 1 or more")
if sorted(WAQUEUE_LOOK_UP_SECONDS) != WAQUEUE_LOOK_UP_SECONDS or any(
    not 0 <= seconds <= 86_400 for seconds in WAQUEUE_LOOK_UP_SECONDS
):
    raise ImproperlyConfigured("WAQUEUE_LOOK_UP_SECONDS has to be seconds in rising order, a day at most: 3,15,60")
if not DATABASE_URL.startswith(("postgres://", "postgresql://")):
    raise ImproperlyConfigured("DATABASE_URL has to begin with postgresql://: waqueue keeps its promises in PostgreSQL")
if not REDIS_URL.startswith(("redis://", "rediss://", "unix://")):
    raise ImproperlyConfigured("REDIS_URL has to begin with redis://, rediss:// or unix://")

# None asks a person about every message of an orphan; the longest time there is asks about none.
WAQUEUE_RESTORE_MAX_AGE = parse_age("WAQUEUE_RESTORE_MAX_AGE", RESTORE_MAX_AGE)

# With which the secrets of sessions are encrypted, newest first; `sessions_app/transports/sealing.py` has the rest.
WAQUEUE_ENCRYPTION_KEYS = parse_keys("WAQUEUE_ENCRYPTION_KEYS", ENCRYPTION_KEYS)

# The two stores.
DATABASES = {"default": dj_database_url.parse(DATABASE_URL, engine="waqueue.postgresql")}
DATABASES["default"].setdefault("OPTIONS", {})
DATABASES["default"]["OPTIONS"] |= {
    "connect_timeout": 3,
    # A peer that has vanished is noticed within seconds, not within the system's quarter of an hour.
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # Only for the cursors of `sessions_app/database.py`, `kept_cursor`: Django's own prepare nothing.
    "prepare_threshold": 5,
    # A full or dead database is a 503 within seconds, not a request that hangs. The pool's own attempts at a dead one
    # come ever more seldom, and requests wait for them: given up soon, each request makes one.
    "pool": {"min_size": 0, "max_size": DATABASE_POOL_SIZE, "timeout": 3, "max_idle": 300, "reconnect_timeout": 0.5},
}
RQ_QUEUES = {"default": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": 3600, "SERIALIZER": "rq.serializers.JSONSerializer"}}
RQ = {"WORKER_CLASS": "sessions_app.worker.SessionWorker"}

# The site.
ROOT_URLCONF = "waqueue.urls"
WSGI_APPLICATION = "waqueue.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "sessions_app.apps.SessionsAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_rq",
    "django_structlog",
    "ninja",
    "sessions_app.apps.SessionsAppConfig",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "waqueue.middleware.RequestLogMiddleware",
    "waqueue.middleware.ContentSecurityMiddleware",
    "sessions_app.api.problems.ProblemMiddleware",
    "waqueue.middleware.PageSessionMiddleware",
    "waqueue.middleware.PageLocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "waqueue.middleware.PageAuthenticationMiddleware",
    "waqueue.middleware.PageMessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
USE_TZ = True
USE_I18N = True
LANGUAGES = [("en", "English"), ("es", "Español")]
LOCALE_PATHS = [BASE_DIR / "sessions_app" / "locale"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Assets are served straight from the packages: no collectstatic step stands between a clone and a working admin.
WHITENOISE_USE_FINDERS = True
warnings.filterwarnings("ignore", "No directory at", UserWarning)
WHITENOISE_AUTOREFRESH = DEBUG

# Security follows the public address: plain HTTP works until WAQUEUE_PUBLIC_URL says https.
IS_HTTPS = urlsplit(PUBLIC_URL).scheme == "https"
CSRF_TRUSTED_ORIGINS = [f"{urlsplit(PUBLIC_URL).scheme}://{urlsplit(PUBLIC_URL).netloc}"] if PUBLIC_URL else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = IS_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if IS_HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if IS_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = IS_HTTPS
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$"]
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

LOGGING_CONFIG = None
configure_logging(level=LOG_LEVEL, fmt=LOG_FORMAT)
DJANGO_STRUCTLOG_USER_ID_FIELD = "pk"
