"""The staff user and the API key that a first run makes, so that the first message needs no setting up."""

import secrets
from collections.abc import Mapping

from .child import manage
from .configuration import Configuration, RunError
from .console import Console
from .greeting import Credential
from .home import Home
from .loop import Loop

ADMIN = "admin"
API_KEY_NAME = "local"


class Credentials:
    """Makes each of them once per database and keeps it in a file of its own under WAQUEUE_HOME."""

    def __init__(self, configuration: Configuration, home: Home, loop: Loop, console: Console) -> None:
        self._home = home
        self._loop = loop
        self._console = console
        self._password_name = f"admin-password{configuration.database_label}"
        self._api_key_name = f"api-key{configuration.database_label}"

    def forget(self) -> None:
        """Drop what belongs to a database that is no more."""
        self._home.forget_credentials(self._password_name, self._api_key_name)

    def admin_password(self, environ: Mapping[str, str]) -> Credential:
        """Return the password of the superuser `admin`; make both if there is none."""
        path = self._home.path / self._password_name
        if kept := self._home.credential(self._password_name):
            return Credential(path, kept, is_new=False)
        password = secrets.token_urlsafe(15)
        try:
            manage(
                self._loop,
                {**environ, "DJANGO_SUPERUSER_PASSWORD": password},
                *("createsuperuser", "--noinput", "--username", ADMIN, "--email", "admin@localhost"),
            )
        except RunError:
            self._console.say(
                f"No staff user was made. If there is one named {ADMIN} whose password is lost, "
                f"`manage.py changepassword {ADMIN}` gives it another."
            )
            return Credential(path, None, is_new=False)
        self._home.keep_credential(self._password_name, password)
        return Credential(path, password, is_new=True)

    def api_key(self, environ: Mapping[str, str]) -> Credential:
        """Return the API key `local`; make it if there is none."""
        path = self._home.path / self._api_key_name
        if kept := self._home.credential(self._api_key_name):
            return Credential(path, kept, is_new=False)
        scopes = [word for scope in ("read", "send", "manage") for word in ("--scope", scope)]
        lines = manage(self._loop, environ, "create_api_key", API_KEY_NAME, *scopes)
        if not lines:
            raise RunError("manage.py create_api_key printed no key")
        self._home.keep_credential(self._api_key_name, lines[-1])
        return Credential(path, lines[-1], is_new=True)
