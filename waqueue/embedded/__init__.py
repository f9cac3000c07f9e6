"""PostgreSQL and Valkey out of PyPI wheels, for `make run` and `make test`: no root, no packages, no Docker needed.

We take the wheels' programs and drive them ourselves, because the wheels' own Python layers widen the modes of
folders that are not theirs, trust every local connection, and keep nothing across a restart.

Both listen on 127.0.0.1 with a generated password and a port of their own. Unix sockets would need a short path,
a folder that two OS users can reach, and an URL that not every parser reads; a loopback address needs none of it.
"""

from .postgres import EmbeddedPostgres
from .system import ServerError, hold_lock
from .valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "ServerError", "hold_lock"]
