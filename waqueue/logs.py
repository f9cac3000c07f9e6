"""One log format for Django, RQ and waqueue: a sentence with ids, on standard error, phones masked."""

import logging.config
from collections.abc import MutableMapping
from typing import Any

import structlog

_PHONE_KEYS = frozenset({"phone", "to", "recipient"})
_PRIVATE_KEYS = frozenset({"text", "body", "caption", "password", "secret", "api_key", "authorization", "config"})


def mask_phone(phone: str) -> str:
    """Keep the first two and the last two digits: enough to recognise, too little to call."""
    return f"{phone[:3]}…{phone[-2:]}" if len(phone) > 6 else "…"


def mask_private(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask phones and drop contents and secrets: the log is read by more people than the messages are.

    It goes by key. Free text is left as it is: a session may well be named like a phone, and its name has to be read.
    """
    for key, value in event.items():
        if key in _PRIVATE_KEYS:
            event[key] = "…"
        elif key == "request":
            # What follows the question mark may name a phone.
            event[key] = str(value).partition("?")[0]
        elif key in _PHONE_KEYS:
            event[key] = mask_phone(str(value))
    return event


def drop_starts(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Say of a request once that it was answered, not also that it came: the one line has all of it."""
    if event.get("event") == "request_started":
        raise structlog.DropEvent
    return event


def configure_logging(*, level: str, fmt: str) -> None:
    """Set up structlog and the standard library alike. `fmt` is `text` for people or `json` for collectors."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_private,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if fmt == "json"
        # A traceback without local variables, which would hold messages, phones and secrets.
        else structlog.dev.ConsoleRenderer(
            colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[drop_starts, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "waqueue": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        *([structlog.processors.format_exc_info] if fmt == "json" else []),
                        renderer,
                    ],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "waqueue"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "sessions_app": {"level": level},
                "waqueue": {"level": level},
                "django_structlog": {"level": level},
                "rq": {"level": level},
                # What it warns of reaches whoever asked for the connection as an error.
                "psycopg.pool": {"level": "ERROR"},
                # A 404 or 405 of a client is in the access log already.
                "django.request": {"level": "ERROR"},
            },
        }
    )
