"""What strangers may leave in Redis: entries and jobs that are broken, huge, or made to run something."""

import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sessions_app.queues import keys
from tests.reconciliation_lab import legacy_entry

MARKUP = "<script>alert(1)</script>"
MEGABYTE = 1024 * 1024
# Whoever was called by name.
called: list[str] = []


def call_me(*_: object, **__: object) -> None:
    """What a job may name as its function or its callback."""
    called.append("by name")


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """The file that is there once anything ran."""
    called.clear()
    path = tmp_path / "ran"
    yield path
    assert not path.exists()
    assert called == []


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.ran}",))


def entries(ran: Path) -> list[bytes]:
    """Entries of a list of the old service. The last one is a message all the same."""
    return [
        b'{"phone":"51911111111","message":"sin cer',
        b"\x80\x04\x95\xff\x00",
        pickle.dumps(Bomb(ran)),
        b"",
        b'{"phone":"51911111111","message":"' + b"x" * 10 * MEGABYTE + b'"}',
        MARKUP.encode(),
        legacy_entry(MARKUP, id=MARKUP, client_ref=MARKUP),
    ]


def jobs(ran: Path) -> dict[bytes, dict[bytes, bytes] | None]:
    """RQ jobs by their ids; None for an id without a job."""
    bomb = pickle.dumps(Bomb(ran))
    return {
        b"names-os-system": _job(_call("os.system", f"touch {ran}")),
        b"names-a-module": _job(_call("tests.hostile_lab.call_me", to="51911111111", text=MARKUP)),
        b"pickled": _job(zlib.compress(bomb)),
        b"pickled-in-meta": _job(_call("f", to="51911111111", text="x"), meta=bomb),
        b"pickled-result": _job(_call("f", to="51911111111", text="x"), result=bomb),
        b"calls-back": _job(
            _call("f", to="51911111111", text="x"),
            failure_callback_name=b"tests.hostile_lab.call_me",
            success_callback_name=b"tests.hostile_lab.call_me",
            stopped_callback_name=b"tests.hostile_lab.call_me",
        ),
        b"truncated": _job(_call("f", "x")[:9]),
        b"odd-fields": _job(_call("f", "x"), status=b"no such", created_at=b"\xff", timeout=b"soon"),
        b"markup": _job(_call(MARKUP, MARKUP), description=MARKUP.encode(), origin=MARKUP.encode()),
        b"huge": _job(b"x" * 10 * MEGABYTE),
        MARKUP.encode(): _job(_call("f", to="51911111111", text="x")),
        b"no job": None,
        b"": None,
        b"\xff\xfe\n": None,
        b"../../otra?x=%s#": None,
        b"i" * 10_000: None,
    }


# The id of a job whose key holds something else.
OF_ANOTHER_TYPE = b"of-another-type"


def leave_jobs(client: redis.Redis, queue: str, ran: Path) -> list[bytes]:
    """Put all of these jobs behind what stands in the queue; return their ids."""
    found = jobs(ran)
    for job_id, fields in found.items():
        if fields:
            client.hset(keys.RQ_JOB_PREFIX.encode() + job_id, mapping=fields)  # type: ignore[arg-type]
    client.set(keys.RQ_JOB_PREFIX.encode() + OF_ANOTHER_TYPE, MARKUP)
    ids = [*found, OF_ANOTHER_TYPE]
    client.rpush(f"{keys.RQ_QUEUE_PREFIX}{queue}", *ids)
    client.sadd(keys.RQ_QUEUES, f"{keys.RQ_QUEUE_PREFIX}{queue}")
    return ids


def _call(function: str, *args: object, **kwargs: object) -> bytes:
    return zlib.compress(json.dumps([function, None, args, kwargs]).encode())


def _job(data: bytes, **fields: bytes) -> dict[bytes, bytes]:
    known = {"created_at": b"2026-01-02T03:04:05.000006Z", "status": b"queued", "origin": b"default"}
    return {name.encode(): value for name, value in (known | fields).items()} | {b"data": data}
