"""Whatever stands in a list: read without running anything, kept byte by byte, exported, never a crash."""

import csv
import io
import json
import os
import pickle
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from sessions_app.models import Orphan, OrphanEntry, OrphanState
from sessions_app.queues import keys, lists
from sessions_app.queues.entries import parse_job, parse_legacy, printable
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans
from tests.factories import make_session
from tests.reconciliation_lab import found, in_order, run, texts_in_line

pytestmark = pytest.mark.usefixtures("without_pause")
in_database = pytest.mark.django_db(transaction=True)


class Bomb:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("echo ran > /tmp/waqueue-bomb",))


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything would run or be unpickled."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr(os, "system", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)


DEEP = b"[" * 100_000
TEN_MB = b'{"phone":"51911111111","message":"' + b"x" * 10_000_000 + b'"}'
LONE = rb'{"phone":"51911111111","message":"half \ud800 a pair","id":"\udfff"}'
NUL = rb'{"phone":"51911111111","message":"a\u0000b","id":"\u0000"}'
PICKLE = pickle.dumps(Bomb())

UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "truncated JSON": b'{"phone":"51911111111","message":"sin cerrar',
    "raw bytes": b"\x80\x04\x95\xff\x00",
    "a pickle that would run code": PICKLE,
    "ten megabytes": TEN_MB,
    "deep nesting": DEEP,
    "nesting in an object": b'{"phone":' * 50_000 + b"1" + b"}" * 50_000,
    "a list": b"[1, 2]",
    "a string": b'"hola"',
    "a number": b"1e999",
    "a number of ten thousand digits": b'{"phone": ' + b"1" * 10_000 + b"}",
    "null": b"null",
    "no phone": b'{"message":"sin destinatario"}',
    "no text": b'{"phone":"51911111111"}',
    "a phone that is none": b'{"phone":"call me","message":"x"}',
    "a phone of another type": b'{"phone":["51911111111"],"message":"x"}',
    "a phone that is true": b'{"phone":true,"message":"x"}',
    "a text of another type": b'{"phone":"51911111111","message":{"a":1}}',
    "an image without a file": b'{"phone":"51911111111","type":"image","message":"x"}',
    "a template that is none": b'{"phone":"51911111111","type":"template","template":"x"}',
    "UTF-16": '{"phone":"51911111111"'.encode("utf-16"),
    "a long phone with NUL": b'{"phone":"' + b"9" * 5000 + rb'\u0000","message":"x"}',
}
READABLE: dict[str, tuple[bytes, str]] = {
    "NUL in the text": (NUL, "ab"),
    "half a surrogate pair": (LONE, "half ? a pair"),
    "a phone that is a number": (b'{"phone":51911111111,"message":"x"}', "x"),
    "a date that is no number": (b'{"phone":"51911111111","message":"x","createdAt":"soon"}', "x"),
    "a date that is infinite": (b'{"phone":"51911111111","message":"x","createdAt":1e999}', "x"),
    "a date that is no date": (b'{"phone":"51911111111","message":"x","createdAt":NaN}', "x"),
    "a date past all dates": (b'{"phone":"51911111111","message":"x","createdAt":' + b"9" * 400 + b"}", "x"),
    "a date of the year 9999": (b'{"phone":"51911111111","message":"x","createdAt":253402300799999}', "x"),
    "a date of the year 1": (b'{"phone":"51911111111","message":"x","createdAt":-62135596800000}', "x"),
    "a date that is true": (b'{"phone":"51911111111","message":"x","createdAt":true}', "x"),
    "an id of another type": (b'{"phone":"51911111111","message":"x","id":{"a":[1]}}', "x"),
    "a long id": (b'{"phone":"51911111111","message":"x","id":"' + b"i" * 5000 + b'"}', "x"),
    "a kind that is no text": (b'{"phone":"51911111111","message":"x","type":["text"]}', "x"),
    "a formula": (b'{"phone":"51911111111","message":"=cmd()"}', "=cmd()"),
}


@pytest.mark.fault(26)
@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_an_entry_that_is_no_message_is_kept_as_its_bytes_with_a_reason(raw: bytes) -> None:
    parsed = parse_legacy(raw)
    entry = orphans.archiving.build_entry(Orphan(), 0, parsed)
    assert parsed.raw == raw
    assert not entry.readable
    assert entry.error
    assert "\x00" not in entry.error


@pytest.mark.fault(26)
@pytest.mark.parametrize(("raw", "text"), READABLE.values(), ids=READABLE)
def test_an_entry_that_is_odd_and_a_message_is_read(raw: bytes, text: str) -> None:
    parsed = parse_legacy(raw)
    assert (parsed.error, parsed.raw, parsed.content["text"]) == ("", raw, text)
    assert parsed.created_at is None


def test_an_entry_of_the_old_service_is_read_whole() -> None:
    raw = (
        b'{"id":"msg_0001","sessionName":"default","phone":"51930246633","message":"\xc3\xa1","type":"assistance-report",'
        b'"attempts":3,"createdAt":1762849800123}'
    )
    parsed = parse_legacy(raw)
    assert (parsed.job_id, parsed.to, parsed.error) == ("msg_0001", "51930246633", "")
    assert parsed.content == {"type": "text", "text": "á"}
    assert parsed.created_at == datetime(2025, 11, 11, 8, 30, 0, 123000, UTC)


def call(*positional: Any, **named: Any) -> bytes:
    return zlib.compress(json.dumps(["os.system", None, list(positional), named]).encode())


GOOD = {b"data": call(to="51911111111", text="x"), b"created_at": b"2026-01-02T03:04:05.000006Z"}
HASHES: dict[str, dict[bytes, bytes] | None] = {
    "gone": None,
    "empty": {},
    "without data": {b"status": b"queued"},
    "a pickle that would run code": {b"data": zlib.compress(PICKLE)},
    "a pickle that is not packed": {b"data": PICKLE},
    "a zip bomb": {b"data": zlib.compress(b"[" * 500_000_000, 9)},
    "a truncated pack": {b"data": GOOD[b"data"][:20]},
    "deep nesting": {b"data": zlib.compress(DEEP)},
    "JSON that is no call": {b"data": zlib.compress(b'{"to":"51911111111","text":"x"}')},
    "a call without its parts": {b"data": zlib.compress(b'["os.system"]')},
    "a call with parts of other types": {b"data": zlib.compress(b'["f", null, {}, []]')},
    "raw names and values": {b"\xff\x00": b"\xfe\x00", b"data": b"\x00"},
    "ten megabytes": {b"data": TEN_MB},
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("fields", HASHES.values(), ids=HASHES)
def test_a_job_that_is_no_message_is_kept_with_a_reason(fields: dict[bytes, bytes] | None) -> None:
    parsed = parse_job(b"a-job", fields)
    assert parsed.error
    if fields:
        kept = json.loads(parsed.raw)
        assert {name.encode("latin-1"): value.encode("latin-1") for name, value in kept["hash"].items()} == fields


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("extra", "created_at"),
    [
        ({b"meta": PICKLE}, datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
        ({b"created_at": b"yesterday"}, None),
        ({b"created_at": b"\xff"}, None),
        ({b"created_at": b"0001-01-01T00:00:00+14:00"}, None),
        ({b"created_at": b"9999-12-31T23:59:59-14:00"}, None),
        ({b"created_at": b"2026-01-02T03:04:05"}, datetime(2026, 1, 2, 3, 4, 5, 0, UTC)),
        ({b"status": b"no such status", b"timeout": b"\xff"}, datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
    ],
)
def test_a_job_is_read_whatever_else_its_hash_holds(extra: dict[bytes, bytes], created_at: datetime | None) -> None:
    parsed = parse_job(b"a-job", GOOD | extra)
    assert (parsed.error, parsed.to, parsed.content["text"], parsed.created_at) == ("", "51911111111", "x", created_at)


@pytest.mark.fault(26)
def test_a_zip_bomb_is_not_unpacked() -> None:
    assert parse_job(b"a-job", HASHES["a zip bomb"]).error == "its data is too large or damaged"


def test_a_job_of_any_function_is_read_by_its_named_content_or_else_by_its_first_object() -> None:
    assert parse_job(b"a", {b"data": call("51", to="51911111111", text="x")}).content["text"] == "x"
    assert parse_job(b"a", {b"data": call(1, {"phone": "51911111111", "message": "y"})}).content["text"] == "y"
    assert parse_job(b"a", {b"data": zlib.decompress(GOOD[b"data"])}).content["text"] == "x"


@in_database
@pytest.mark.fault(26)
def test_everything_together_is_archived_shown_exported_and_none_of_it_is_sent(redis_client: redis.Redis) -> None:
    in_order()
    entries = [*UNREADABLE.values(), *(raw for raw, _ in READABLE.values())]
    redis_client.rpush("queue:roto", *entries)
    for name, fields in HASHES.items():
        redis_client.rpush("rq:queue:wa:roto-rq", name)
        if fields:
            redis_client.hset(keys.job_key(name), mapping=fields)
    redis_client.rpush("rq:queue:wa:roto-rq", b"", b"\xff\x00\n", b"i" * 10_000, b"a key of another type")
    redis_client.set(keys.job_key("a key of another type"), "x")
    assert run(policy=Policy.ARCHIVE).outcome == "repaired"
    assert not redis_client.exists("queue:roto", "rq:queue:wa:roto-rq")
    legacy, jobs = Orphan.objects.get(source="legacy"), Orphan.objects.get(source="rq")
    assert (legacy.messages, legacy.unreadable) == (len(entries), len(UNREADABLE))
    assert jobs.messages == jobs.unreadable == len(HASHES) + 4
    raws = OrphanEntry.objects.filter(orphan=legacy).order_by("index").values_list("raw", flat=True)
    assert [bytes(raw) for raw in raws] == entries
    for orphan in (legacy, jobs):
        rows = [json.loads(line) for line in orphans.export_rows(orphan, "jsonl")]
        assert len(rows) == orphan.messages
        table = list(csv.reader(io.StringIO("".join(orphans.export_rows(orphan, "csv")), newline="")))
        assert len(table) == orphan.messages + 1
        assert not [cell for row in table for cell in row if cell.startswith("=")]
        shown = [entry.raw for entry in orphans.entries(orphan)]
        assert all("\x00" not in raw and len(raw) <= 1000 for raw in shown)
    assert r"\x80\x04\x95\xff\x00" in [entry.raw for entry in orphans.entries(legacy)]
    # Nothing has a date, so that nothing is young; a person may send what can be read.
    session = make_session("roto")
    assert texts_in_line(session) == []
    assert orphans.restore(legacy, session, actor=orphans.archiving.Actor("a person")).restored == len(READABLE)
    assert sorted(texts_in_line(session)) == sorted(text for _, text in READABLE.values())


NAMES = {
    "glob": b"*?[x]^\\",
    "newline": b"a\nb\r\t",
    "path": b"../../etc/passwd",
    "ten kilobytes": b"n" * 10_000,
    "no text": b"\xff\xfe\x00\x80",
    "half a pair": b"\xed\xa0\x80",
    "empty": b"",
    "colons and spaces": " : á 😀:".encode(),
    "markup": b"<script>alert(1)</script>",
    "format": b"{queue!r} %s %(x)s {0}",
}


@in_database
@pytest.mark.fault(26)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_queue_of_an_odd_name_is_archived_and_shown_escaped(name: bytes, redis_client: redis.Redis) -> None:
    in_order()
    entry = b'{"phone":"51922222222","message":"nombre raro"}'
    redis_client.rpush(b"queue:" + name, entry)
    redis_client.rpush(b"rq:queue:wa:" + name, "a-job")
    redis_client.hset(keys.job_key("a-job"), mapping=GOOD | {b"origin": b"wa:" + name})
    # What a pattern out of the name would match as well, and must not.
    redis_client.rpush("rq:queue:other", "x")
    redis_client.rpush("aqueue:x", "x")
    done = run(policy=Policy.ARCHIVE)
    assert [(kind, count, action) for kind, _, count, action in found(done)] == [
        ("legacy_queue", 1, "archived"), ("orphan_queue", 1, "archived"),
    ]  # fmt: skip
    for orphan in Orphan.objects.all():
        assert orphan.state == OrphanState.ARCHIVED
        assert orphan.session_name == printable(name)
        assert orphan.messages - orphan.unreadable == 1
        assert len(list(orphans.export_rows(orphan, "jsonl"))) == 1
    assert {key for key in redis_client.scan_iter() if not key.startswith(b"waqueue:")} == {
        b"rq:queue:other",
        b"aqueue:x",
    }
    assert found(run()) == []


def test_bytes_are_shown_as_text_where_they_are_text_and_cut() -> None:
    assert printable("sesión".encode()) == "sesión"
    assert printable(b"\xff\x00") == r"\xff\x00"
    assert printable(b"x" * 5000, 10) == "xxxxxxxxx…"
    assert len(printable("😀".encode() * 5000)) == 1000


def test_a_pattern_character_in_a_prefix_stands_for_itself(redis_client: redis.Redis) -> None:
    redis_client.rpush("q*:a", "x")
    redis_client.rpush("qq:a", "x")
    redis_client.rpush("q[x]:a", "x", "y")
    assert [(key.key, key.length) for key in lists.scan(b"q*:")] == [(b"q*:a", 1)]
    assert [(key.key, key.length) for key in lists.scan(b"q[x]:")] == [(b"q[x]:a", 2)]
