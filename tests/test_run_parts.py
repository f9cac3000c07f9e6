"""The parts of `make run` that need no servers: what the environment says, the home folder, stopping, restarting."""

import io
import itertools
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import PROJECT
from waqueue.embedded import ServerError
from waqueue.run.child import Child, manage
from waqueue.run.configuration import Configuration, RunError
from waqueue.run.console import Console
from waqueue.run.greeting import Credential, greeting
from waqueue.run.home import Home
from waqueue.run.loop import Loop, StopRequested
from waqueue.run.restarts import SERVER_TRIES, Keeper

# The environment


def test_without_settings_a_run_keeps_to_itself() -> None:
    configuration = Configuration.from_environment({})
    assert configuration.home == PROJECT / "var"
    assert configuration.listen_address == "127.0.0.1:8000"
    assert configuration.base_url == "http://127.0.0.1:8000"
    assert configuration.database_url is configuration.redis_url is None


@pytest.mark.parametrize(
    ("environ", "listen_address", "base_url"),
    [
        ({"WAQUEUE_BIND": "0.0.0.0", "WAQUEUE_PORT": "80"}, "0.0.0.0:80", "http://127.0.0.1:80"),
        ({"WAQUEUE_BIND": "::1"}, "[::1]:8000", "http://[::1]:8000"),
        ({"WAQUEUE_PUBLIC_URL": "https://wa.example/"}, "127.0.0.1:8000", "https://wa.example"),
    ],
)
def test_addresses_to_listen_on_and_to_show(environ: dict[str, str], listen_address: str, base_url: str) -> None:
    configuration = Configuration.from_environment(environ)
    assert (configuration.listen_address, configuration.base_url) == (listen_address, base_url)


@pytest.mark.parametrize(
    ("name", "value"), [("WAQUEUE_PORT", "http"), ("WAQUEUE_PORT", "70000"), ("WAQUEUE_DRAIN_SECONDS", "-1")]
)
def test_a_wrong_number_is_named(name: str, value: str) -> None:
    with pytest.raises(RunError, match=f"{name} is '{value}'"):
        Configuration.from_environment({name: value})


def test_credentials_are_kept_per_database_and_not_per_password() -> None:
    labels = [
        Configuration.from_environment({"DATABASE_URL": url}).database_label
        for url in ("", "postgresql://a:1@host/x", "postgresql://a:2@host/x", "postgresql://a:1@host/y")
    ]
    assert labels[0] == ""
    assert labels[1] == labels[2] != labels[3]


# The home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_closed_to_others(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / "home")
    home.open()
    assert mode(home.path) == (0o711 if os.geteuid() == 0 else 0o700)
    key = home.secret_key()
    assert len(key) >= 50
    assert home.secret_key() == key
    assert mode(home.path / "secret-key") == 0o600


def test_an_empty_folder_given_as_home_is_closed_too(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    Home(folder).open()
    assert mode(folder) & 0o066 == 0


def test_a_folder_with_somebody_elses_files_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").touch()
    folder.chmod(0o755)
    Home(folder).open()
    assert mode(folder) == 0o755


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "file").touch()
    folder.chmod(0o777)
    with pytest.raises(RunError, match="others may write to WAQUEUE_HOME"):
        Home(folder).open()
    assert mode(folder) == 0o777


def test_a_file_cannot_be_the_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="choose a folder that you may write to"):
        Home(tmp_path / "file").open()


def test_a_home_is_used_by_one_run_at_a_time(tmp_path: Path) -> None:
    Home(tmp_path / "home").open()
    with pytest.raises(RunError, match="another `make run` uses"):
        Home(tmp_path / "home").open()


# The greeting


def test_secrets_are_shown_once_and_then_their_files_are_named() -> None:
    file = Path("/a folder/api-key")
    new = Credential(file, "opensesame", is_new=True)
    kept = Credential(file, "opensesame", is_new=False)
    assert "opensesame" in greeting(Configuration.from_environment({}), new, new)
    text = greeting(Configuration.from_environment({}), kept, kept)
    assert "opensesame" not in text
    assert """Bearer $(cat '/a folder/api-key')" """ in text


# Processes


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def loop(output: io.StringIO) -> Iterator[Loop]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with Loop(Console(output)) as loop:
        yield loop
    for number, handler in before.items():
        signal.signal(number, handler)


def child(loop: Loop, program: str, grace_s: float = 30) -> Child:
    return Child("child", [sys.executable, "-uc", program], dict(os.environ), loop, grace_s=grace_s)


def test_a_signal_interrupts_whatever_waits(loop: Loop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StopRequested):
        loop.wait(30)


def test_lines_of_a_child_are_shown_under_its_name_to_the_last(loop: Loop, output: io.StringIO) -> None:
    one = child(loop, "import sys; print('first'); print('ñ' * 100_000); sys.stdout.write('no newline')")
    one.start()
    loop.wait_for(lambda: not one.is_running(), 30)
    loop.begin_stop()
    one.stop()
    lines = output.getvalue().splitlines()
    assert [line.partition("| ")[2] for line in lines] == ["first", "ñ" * 100_000, "no newline"]
    assert all("child" in line.partition("| ")[0] for line in lines)


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"


def test_a_child_that_does_not_end_within_its_grace_is_ended(loop: Loop, output: io.StringIO) -> None:
    one = child(loop, DEAF, grace_s=0.3)
    one.start()
    loop.wait_for(lambda: "up" in output.getvalue(), 30)
    loop.begin_stop()
    one.stop()
    assert not one.is_running()


TWICE = """
import signal, time
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
print("up")
while len(seen) < 2:
    time.sleep(0.01)
print("twice")
"""


def test_a_second_signal_hurries_a_child_that_takes_its_time(loop: Loop, output: io.StringIO) -> None:
    one = child(loop, TWICE, grace_s=600)
    one.start()
    loop.wait_for(lambda: "up" in output.getvalue(), 30)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(StopRequested):
        loop.wait(30)
    loop.begin_stop()
    os.kill(os.getpid(), signal.SIGINT)
    one.stop()
    assert "twice" in output.getvalue()


def test_a_command_that_fails_says_where_to_look(loop: Loop) -> None:
    with pytest.raises(RunError, match=r"manage\.py no_such_command failed: its lines above say why"):
        manage(loop, dict(os.environ), "no_such_command")


def test_output_that_nobody_reads_any_more_does_not_end_the_run() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as output:
        console = Console(output)
        console.say("nobody hears this")
        console.plain("nor this")


# Restarts


class Part:
    """A part that cannot be started."""

    title = "Thing"
    starts = 0

    def start(self) -> None:
        self.starts += 1
        raise ServerError("it is broken")

    def stop(self) -> None: ...

    def is_running(self) -> bool:
        return False


def test_what_keeps_ending_is_tried_after_growing_pauses_and_in_the_end_given_up(output: io.StringIO) -> None:
    part = Part()
    keeper = Keeper(part, Console(output))
    now, begun = time.monotonic(), []
    with pytest.raises(RunError, match="Thing cannot be started again: it is broken"):
        for second in range(200):
            before = part.starts
            keeper.look(now + second)
            if part.starts > before:
                begun.append(second)
    assert part.starts == SERVER_TRIES
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses == sorted(pauses)
    assert output.getvalue().count("it is broken.") == SERVER_TRIES - 1
