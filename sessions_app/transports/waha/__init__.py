"""WAHA (https://waha.devlike.pro), the first real engine: texts and the state of a session; the rest comes later."""

from sessions_app.transports.waha.transport import WahaTransport

__all__ = ["WahaTransport"]
