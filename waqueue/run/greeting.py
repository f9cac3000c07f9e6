"""What a run says when it is ready: where to look, who one is, and the first message, ready to paste."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from .configuration import HOME, Configuration


@dataclass(frozen=True)
class Credential:
    """A secret, the file that keeps it, and whether it was made just now and so is shown this once."""

    file: Path
    value: str | None
    is_new: bool


def greeting(configuration: Configuration, password: Credential, api_key: Credential) -> str:
    """Return the text. A secret is shown when it is new; afterwards its file is named."""
    base_url = configuration.base_url
    where = "" if configuration.home == HOME else f"WAQUEUE_HOME={shlex.quote(str(configuration.home))} "
    # A shell reads the file when the line is pasted, so that the key does not stay on every terminal.
    key = api_key.value if api_key.is_new else f"$(cat {shlex.quote(str(api_key.file))})"
    head = f'-H "Authorization: Bearer {key}" -H "Content-Type: application/json"'
    return f"""
  waqueue is ready.

  Admin      {base_url}/admin/
             user admin, password {_shown(password)}
  API key    {_shown(api_key)}
  API pages  {base_url}/whatsapp/docs
  Commands   {where}.venv/bin/python manage.py help   (in another terminal: they find these servers)

  Make a session and send a first message:

curl -X POST {base_url}/whatsapp/sessions {head} -d '{{"name":"test-session"}}'

curl -X POST {base_url}/whatsapp/sessions/test-session/send-assistance-report {head} \
-d '{{"phone":"1234567890","message":"test"}}'

  Ctrl-C stops everything and keeps the data.
"""


def _shown(credential: Credential) -> str:
    if credential.is_new:
        return f"{credential.value}   (kept in {credential.file})"
    return f"in {credential.file}" if credential.value else "as you set it (it was not made here)"
