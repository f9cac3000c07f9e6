"""`make run` as a newcomer meets it: one command, everything is there, and nothing is left when it ends."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Process, descendants, find_free_port, is_alive, wait_until
from tests.servers import Servers

pytestmark = pytest.mark.acceptance

READY_S = 90
STOPPED_S = 90


@dataclass
class Run:
    """One `make run`."""

    process: Process
    home: Path
    base_url: str

    @property
    def output(self) -> str:
        return self.process.output

    def curl_lines(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("curl ")]

    def wait_until_ready(self) -> "Run":
        def state() -> bool:
            assert self.process.is_running(), self.output
            return len(self.curl_lines()) == 2

        wait_until(state, READY_S, "the greeting")
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and see to it that it leaves nothing."""
        family = descendants(self.process.pid)
        assert family
        self.process.send(how)
        assert self.process.wait(STOPPED_S) == 0, self.output
        assert [pid for pid in family if is_alive(pid)] == []

    def child(self, word: str) -> int:
        """Return the process that the supervisor started with this word on its command line."""
        for pid in descendants(self.process.pid):
            if word in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                return pid
        raise AssertionError(f"no {word} among the processes:\n{self.output}")


class Runs:
    """Makes runs on one home: a folder to be, on a path with a space that is too long for a socket."""

    def __init__(self) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="waqueue-run-"))
        self._top.chmod(0o711)
        self._made: list[Run] = []
        self.home = self._top / "with a space" / "/".join(["long" * 12] * 3)

    def start(self, **environ: str) -> Run:
        """Start a run and return at once."""
        port = environ.get("WAQUEUE_PORT") or str(find_free_port())
        # The suite's own stores are in the environment, and have to be out of the run's.
        stores = {"DATABASE_URL": "", "REDIS_URL": "", "WAQUEUE_SECRET_KEY": ""}
        process = Process(
            [sys.executable, "-m", "waqueue.run"],
            {**stores, "WAQUEUE_HOME": str(self.home), "WAQUEUE_PORT": port, **environ},
            self._top / f"run-{len(self._made)}.log",
        )
        self._made.append(Run(process.start(), self.home, f"http://127.0.0.1:{port}"))
        return self._made[-1]

    def close(self) -> None:
        """End what still runs and remove the home."""
        for run in self._made:
            family = descendants(run.process.pid) if run.process.is_running() else []
            run.process.kill()
            # The rest ends by itself when its supervisor is gone.
            wait_until(lambda family=family: not any(map(is_alive, family)), 90, "the processes of a run to end")
            sys.stdout.write(run.output)
        shutil.rmtree(self._top)


@pytest.fixture
def runs() -> Iterator[Runs]:
    made = Runs()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_run() -> Iterator[Run]:
    """Return a run for tests that leave it as it was."""
    made = Runs()
    yield made.start().wait_until_ready()
    made.close()


def request(method: str, url: str, headers: dict[str, str], data: str | None = None) -> tuple[int, Any]:
    asked = urllib.request.Request(url, method=method, headers=headers, data=data.encode() if data else None)
    with urllib.request.urlopen(asked, timeout=30) as response:
        return response.status, json.load(response)


def paste(line: str) -> tuple[int, Any]:
    """Do what a shell would do with a curl line, secrets that are read from a file included."""
    line = re.sub(r"\$\(cat ([^)]*)\)", lambda found: Path(*shlex.split(found[1])).read_text().strip(), line)
    words = shlex.split(line)
    assert words[:3] == ["curl", "-X", "POST"]
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    return request("POST", words[3], headers, words[words.index("-d") + 1])


def authorization(run: Run) -> dict[str, str]:
    return {"Authorization": f"Bearer {(run.home / 'api-key').read_text().strip()}"}


def is_sent(run: Run, message: dict[str, Any]) -> bool:
    _, found = request("GET", f"{run.base_url}/whatsapp/messages/{message['id']}", authorization(run))
    return found["status"] == "sent"


def test_the_first_message_goes_through_and_the_next_start_has_it(runs: Runs) -> None:
    home = runs.home
    run = runs.start().wait_until_ready()
    status, session = paste(run.curl_lines()[0])
    assert (status, session["name"]) == (201, "test-session")
    status, message = paste(run.curl_lines()[1])
    assert (status, message["session"], message["status"]) == (202, "test-session", "queued")
    wait_until(lambda: is_sent(run, message), 30, "the first message to be sent")

    secrets = {name: (home / name).read_text().strip() for name in ("secret-key", "admin-password", "api-key")}
    for name in secrets:
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(home.stat().st_mode) & 0o066 == 0
    assert secrets["admin-password"] in run.output
    assert secrets["api-key"] in run.output
    assert secrets["secret-key"] not in run.output
    run.stop(signal.SIGTERM)
    assert not (home / "environment").exists()

    again = runs.start().wait_until_ready()
    assert {name: (home / name).read_text().strip() for name in secrets} == secrets
    assert not any(secret in again.output for secret in secrets.values())
    assert str(home / "admin-password") in again.output
    assert is_sent(again, message)
    assert paste(again.curl_lines()[1])[0] == 202
    again.stop(signal.SIGINT)


def test_the_admin_password_opens_the_admin(shared_run: Run) -> None:
    page = f"{shared_run.base_url}/admin/login/?next=/admin/"
    with urllib.request.urlopen(page, timeout=30) as response:
        cookie = response.headers["Set-Cookie"].split(";")[0]
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', response.read().decode())
    assert token
    password = (shared_run.home / "admin-password").read_text().strip()
    form = urllib.parse.urlencode({"username": "admin", "password": password, "csrfmiddlewaretoken": token[1]})
    asked = urllib.request.Request(page, data=form.encode(), headers={"Cookie": cookie, "Referer": page})

    class KeepTheRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.build_opener(KeepTheRedirect).open(asked, timeout=30)
    with answer.value as response:
        assert (response.status, response.headers["Location"]) == (302, "/admin/")


def test_what_dies_is_started_again_on_the_same_data(shared_run: Run) -> None:
    run = shared_run
    paste(run.curl_lines()[0])
    for word in ("manage.py rqworker", "gunicorn", "valkey-server", "postgres -D"):
        old = run.child(word)
        os.kill(old, signal.SIGKILL)
        seen = run.output.count("was started again")
        wait_until(lambda seen=seen: run.output.count("was started again") > seen, 60, f"another {word}")
        assert run.child(word) != old

    def accepts() -> dict[str, Any] | None:
        try:
            return paste(run.curl_lines()[1])[1]
        except OSError:
            return None

    message = wait_until(accepts, 60, "a message to be accepted")
    wait_until(lambda: is_sent(run, message), 60, "the message to be sent")


def test_after_a_kill_in_the_middle_nothing_runs_on_and_the_next_start_has_the_data(runs: Runs) -> None:
    run = runs.start()
    wait_until(lambda: "Starting PostgreSQL" in run.output, 30, "the run to begin")
    run.process.send(signal.SIGTERM)
    assert run.process.wait(STOPPED_S) == 0, run.output
    assert "Traceback" not in run.output

    run = runs.start().wait_until_ready()
    paste(run.curl_lines()[0])
    _, message = paste(run.curl_lines()[1])
    wait_until(lambda: is_sent(run, message), 30, "the message to be sent")
    family = descendants(run.process.pid)
    run.process.send(signal.SIGKILL)
    run.process.wait(10)

    again = runs.start().wait_until_ready()
    assert is_sent(again, message)
    wait_until(lambda: not any(map(is_alive, family)), 90, "the killed supervisor's processes to end")
    again.stop()


def test_commands_beside_it_find_its_stores_and_say_in_a_line_when_there_are_none(shared_run: Run, runs: Runs) -> None:
    assert f"WAQUEUE_HOME='{shared_run.home}' .venv/bin/python manage.py help" in shared_run.output
    assert stat.S_IMODE((shared_run.home / "environment").stat().st_mode) == 0o600
    found = command(shared_run.home, "reconcile_queues", "--dry-run")
    assert (found.returncode, found.stderr) == (0, "")
    nothing = command(runs.home, "reconcile_queues", "--dry-run")
    assert nothing.returncode == 1
    assert nothing.stderr.count("\n") == 1 and nothing.stderr.startswith("DATABASE_URL is not set")


def command(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Give a command as in another terminal, where nothing is set but the home."""
    environ = {**os.environ, "DATABASE_URL": "", "REDIS_URL": "", "WAQUEUE_SECRET_KEY": "", "WAQUEUE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "manage.py", *argv], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_run_on_the_same_home_refuses(shared_run: Run, runs: Runs) -> None:
    second = runs.start(WAQUEUE_HOME=str(shared_run.home))
    assert second.process.wait(20) == 1
    assert f"another `make run` uses {shared_run.home}" in second.output
    assert "Traceback" not in second.output
    assert shared_run.process.is_running()


def test_a_taken_port_is_said_before_anything_is_made(runs: Runs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = runs.start(WAQUEUE_PORT=str(port))
        assert run.process.wait(20) == 1
    assert f"port {port} of 127.0.0.1 cannot be had" in run.output
    assert "set WAQUEUE_PORT to another" in run.output
    assert not (runs.home / "postgres").exists()


def test_it_uses_the_stores_that_the_environment_names(runs: Runs, servers: Servers) -> None:
    postgres, redis = servers.postgres(), servers.valkey()
    run = runs.start(DATABASE_URL=postgres.url, REDIS_URL=redis.url).wait_until_ready()
    assert not (runs.home / "postgres").exists()
    assert not (runs.home / "valkey").exists()
    key = run.curl_lines()[0].partition("Bearer ")[2].partition('"')[0]
    assert request("GET", f"{run.base_url}/whatsapp/queues", {"Authorization": f"Bearer {key}"})[0] == 200
    run.stop()
    assert postgres.is_running()
    assert redis.is_running()


def test_a_database_that_does_not_answer_is_named(runs: Runs) -> None:
    run = runs.start(DATABASE_URL=f"postgresql://a:b@127.0.0.1:{find_free_port()}/waqueue")
    assert run.process.wait(30) == 1
    assert "DATABASE_URL does not lead to a PostgreSQL that lets us in" in run.output
    assert "Traceback" not in run.output
