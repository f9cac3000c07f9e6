"""An embedded PostgreSQL: made with a generated password, started on 127.0.0.1, stopped in good order."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg import sql

from .account import Account, choose_account, folder_elsewhere
from .programs import postgres_programs, reachable_programs
from .server import EmbeddedServer, logger
from .system import ServerError, can_reach, can_see_processes, spawn, write_private

_NAME = "waqueue"
_SUPERUSER = "postgres"
_DEFAULTS: dict[str, str | int] = {"max_connections": 200, "timezone": "UTC", "log_timezone": "UTC"}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL of our own, with a database `waqueue` and a role `waqueue` that may make further databases.

    As root it runs under an account of its own, for PostgreSQL refuses to be root. If that account cannot walk to the
    folder, the data are kept elsewhere and the file `data-is-in` says where: no mode of a folder that somebody else
    made is ever changed.
    """

    title = "PostgreSQL"
    process_names: ClassVar[frozenset[str]] = frozenset({"postgres"})
    # Fast shutdown: open transactions are rolled back, and nobody waits for clients to leave.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        folder: Path,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        **options: Any,
    ) -> None:
        """`bin_dir` holds other programs than the wheel's; `settings` are lines of postgresql.conf."""
        super().__init__(folder, settings=_DEFAULTS | dict(settings or {}), **options)
        self._bin_dir = bin_dir
        self._account: Account | None = None
        self.is_new = False
        """Whether this object made the data."""

    @property
    def url(self) -> str:
        return f"postgresql://{_NAME}:{self._keep_password()}@127.0.0.1:{self.port}/{_NAME}"

    @property
    def data_dir(self) -> Path:
        pointer = self.folder / "data-is-in"
        return Path(pointer.read_text().rstrip("\n")) if pointer.exists() else self.folder / "data"

    def start(self) -> None:
        super().start()
        try:
            self._ensure_role_and_database()
        except psycopg.Error as error:
            self.stop()
            reason = str(error).strip().splitlines()[0]
            raise ServerError(
                f"PostgreSQL started but does not let us in: {reason} (look into {self.folder})"
            ) from error

    def _prepare(self) -> None:
        self._account = choose_account(self.data_dir)
        self._place_data()
        self._bin = reachable_programs(self._bin_dir or postgres_programs(), self._account)
        if not (self.data_dir / "PG_VERSION").exists():
            self._make_data()
        if can_see_processes():
            # So no server runs here (see _end_left_over), but a stranger may have its number by now: then PostgreSQL
            # would believe the file and refuse to start.
            (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _place_data(self) -> None:
        """See to it that the account can walk to the data, without changing what others made."""
        pointer = self.folder / "data-is-in"
        if pointer.exists():
            if not self.data_dir.parent.exists():
                raise ServerError(
                    f"the data of PostgreSQL were in {self.data_dir}, which is gone: bring it back, "
                    f"or delete {pointer} to begin with an empty database"
                )
            return
        if self._account is None:
            return
        if can_reach(self.folder, self._account.uid, self._account.gid):
            # This folder is ours. Its files are each readable by their owner only, so to walk through shows nothing.
            self.folder.chmod(0o711)
        elif self.data_dir.exists():
            raise ServerError(
                f"the owner of {self.data_dir} cannot walk to it: move WAQUEUE_HOME to where it can, "
                "or run as that user"
            )
        else:
            place = folder_elsewhere(self.folder) / "data"
            write_private(pointer, f"{place}\n")
            logger.info(
                "PostgreSQL cannot run as root, and the account made for it cannot reach %s: its data are kept in %s.",
                self.folder,
                place,
            )

    def _make_data(self) -> None:
        """Run initdb beside the final place and rename: what was interrupted is simply made again."""
        part = self.data_dir.with_name("data.part")
        shutil.rmtree(part, ignore_errors=True)
        arguments = self._account.popen_arguments() if self._account else {}
        with tempfile.NamedTemporaryFile(dir=part.parent, prefix="initdb-") as password:
            password.write(self._keep_password("superuser-password").encode())
            password.flush()
            if self._account:
                os.fchown(password.fileno(), self._account.uid, self._account.gid)
                part.mkdir(mode=0o700)
                os.chown(part, self._account.uid, self._account.gid)
            options = [f"--pgdata={part}", f"--username={_SUPERUSER}", f"--pwfile={password.name}"]
            options += ["--auth=scram-sha-256", "--encoding=UTF8", *self._locale_options(), "--no-instructions"]
            if self.settings.get("fsync") == "off":
                options.append("--no-sync")
            self._run("initdb", *options, **arguments)
        part.rename(self.data_dir)
        self.is_new = True

    def _locale_options(self) -> list[str]:
        """Sort by code point and know the case of all letters. From 17 on PostgreSQL can by itself, on any system."""
        version = re.search(r"\d+", self._run("initdb", "--version"))
        if version and int(version[0]) >= 17:
            return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return ["--locale=C.UTF-8"]

    def _run(self, program: str, *options: str, **arguments: Any) -> str:
        process = spawn(
            [self._bin / program, *options],
            when_parent_dies=signal.SIGTERM,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            **arguments,
        )
        output = process.communicate()[0].decode("utf-8", "replace")
        if process.returncode:
            with self.log_file.open("a") as log:
                log.write(output)
            complaint = re.search(r"(?:error|FATAL|PANIC):\s*(.+)", output)
            reason = complaint[1] if complaint else "it gave no reason"
            raise ServerError(f"{program} could not make the database: {reason} (its log is {self.log_file})")
        return output

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, Any]]:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""} | self.settings
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        arguments = self._account.popen_arguments() if self._account else {}
        return [self._bin / "postgres", "-D", self.data_dir, *options], {"env": _environment(), **arguments}

    def _is_ready(self) -> bool:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _complaint_of(self, line: str) -> str | None:
        for level in ("FATAL: ", "PANIC: ", "postgres: "):
            if level in line:
                return line.partition(level)[2].strip()
        return None

    def _ensure_role_and_database(self) -> None:
        connect: Callable[..., psycopg.Connection[Any]] = psycopg.connect
        with connect(
            host="127.0.0.1",
            port=self.port,
            user=_SUPERUSER,
            password=self._keep_password("superuser-password"),
            dbname="postgres",
            autocommit=True,
        ) as connection:
            name = sql.Identifier(_NAME)
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [_NAME]).fetchone():
                password = sql.Literal(self._keep_password())
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(name, password))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_NAME]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))


def _environment() -> dict[str, str]:
    """Return what a server is told of our environment: nothing that could change what it does, messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
