"""Very much in Redis and PostgreSQL: what a page costs is counted, and is the same as for a little."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from sessions_app.models import ApiKey, Orphan, OrphanState, ReconciliationFinding
from sessions_app.queues import keys, lists
from sessions_app.reconciliation.repair import Policy
from sessions_app.services import orphans
from sessions_app.services.orphans import archiving
from tests.admin_lab import act_url, boss, list_url, page_url
from tests.api_client import ApiClient
from tests.factories import make_session, submit
from tests.hostile_lab import MEGABYTE
from tests.orphan_lab import orphan_url
from tests.reconciliation_lab import in_order, legacy_entry, run
from tests.size_lab import (
    assert_redis_is_never_blocked,
    clone,
    clone_orphan,
    clone_session,
    cost,
    fill_list,
    lengthen,
    make_lists,
    rows_read,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("without_pause")]

MANY, MILLION, BACKLOG = 10_000, 1_000_000, 30_000
# What a page, or an answer, may take at most, in bytes; its answer, and what is held in memory meanwhile.
MOST, PEAK = MEGABYTE, 32 * MEGABYTE


@pytest.fixture
def own_redis(quiet_redis: redis.Redis) -> Iterator[redis.Redis]:
    """Have a Redis whose slow log holds nobody else's commands."""
    in_order()
    yield quiet_redis


def costs(urls: list[str], *, is_warm: bool = True) -> dict[str, tuple[int, int]]:
    """Ask for pages and answers; return the statements and round trips of each, which are all bounded."""
    client, api = boss(), ApiClient()
    api.get("/whatsapp/sessions?limit=1")
    # A key writes down once a minute when it was used: not in the midst of this, however long it takes.
    ApiKey.objects.update(last_used_at=timezone.now() + timedelta(hours=1))
    found = {}
    for url in () if is_warm else urls:
        # What is made at the first time.
        _content(client, api, url)
    for url in urls:
        took = cost(lambda url=url: _content(client, api, url))  # type: ignore[misc]
        assert took.size < MOST, (url, took)
        assert took.peak < PEAK, (url, took)
        assert took.statements and took.statements < 40, (url, took)
        found[url] = took.statements, took.trips
    return found


def asked_for(urls: list[str], expected: dict[str, tuple[int, int]]) -> Callable[[], None]:
    """Ask for these, which cost as much as they did."""

    def ask() -> None:
        assert costs(urls) == expected

    return ask


def _content(client: Any, api: ApiClient, url: str) -> bytes:
    if url.startswith("/whatsapp/"):
        answer = api.get(url)
        assert answer.status == 200, (url, answer)
        return str(answer.body).encode()
    response = client.get(url)
    assert response.status_code == 200, url
    return bytes(response.content)


@pytest.mark.fault(27)
def test_ten_thousand_queues_and_orphans_cost_a_page_no_more_queries_than_a_few(own_redis: redis.Redis) -> None:
    urls = ["/admin/", list_url("session"), list_url("orphan"), f"{list_url('orphan')}?q=9", list_url("queue")]
    urls += ["/whatsapp/queues", "/whatsapp/orphans", "/whatsapp/sessions"]
    alpha = make_session("alpha")
    submit(alpha, "x")
    own_redis.rpush("queue:gone", legacy_entry("x"))
    run()
    orphan = Orphan.objects.get()
    names = [f"rq:queue:wa:alpha-{at}" for at in range(2, MANY + 1)]
    few = 150
    clone_session(alpha, few)
    clone_orphan(orphan, few)
    make_lists(own_redis, names[: few - 1] + [f"queue:gone-{at}" for at in range(2, few + 1)])
    of_few = costs(urls, is_warm=False)
    clone_session(alpha, MANY, start=few + 1)
    clone_orphan(orphan, MANY, start=few + 1)
    make_lists(own_redis, names[few - 1 :] + [f"queue:gone-{at}" for at in range(few + 1, MANY + 1)])
    assert_redis_is_never_blocked(own_redis, asked_for(urls, of_few))


@pytest.mark.fault(27)
def test_a_queue_of_a_million_is_shown_page_by_page(own_redis: redis.Redis) -> None:
    key = "rq:queue:wa:gone"
    own_redis.sadd(keys.RQ_QUEUES, key)

    def fill(count: int) -> None:
        own_redis.delete(key)
        fill_list(own_redis, key, count)

    fill(1500)
    orphan, _ = archiving.detect(
        key.encode(), session_name="gone", source="rq", reason="", messages=1500, now=timezone.now()
    )
    make_session("target", desired_state="paused")
    page = page_url("orphan", orphan.pk)
    urls = [
        "/admin/", list_url("orphan"), list_url("queue"), page, f"{page}?from=1000", orphan_url("restore", orphan),
        f"{orphan_url('restore', orphan)}?preview=1&to=other&session=target", orphan_url("purge", orphan),
        act_url("orphan", "archive", orphan.pk), act_url("orphan", "purge", orphan.pk), "/whatsapp/queues",
        f"/whatsapp/orphans/{orphan.pk}", f"/whatsapp/orphans/{orphan.pk}/messages",
    ]  # fmt: skip
    of_few = costs(urls, is_warm=False)
    fill(MILLION)

    def look() -> None:
        assert costs(urls) == of_few
        for start in (MILLION // 2, MILLION - 50):
            deep = boss().get(page, {"from": str(start)}).context["page"]
            assert [line.index for line in deep.lines] == list(range(start, min(start + 100, MILLION)))
            assert deep.following == (start + 100 if start + 100 < MILLION else None)

    assert_redis_is_never_blocked(own_redis, look)


@pytest.mark.fault(27)
def test_a_session_with_a_backlog_is_shown_by_its_newest_messages(own_redis: redis.Redis) -> None:
    alpha = make_session("alpha", desired_state="paused")
    (message,) = submit(alpha, "x")
    page, newest = page_url("session", alpha.pk), list_url("message")
    urls = [
        "/admin/", page, newest, f"{newest}?session=alpha", f"{newest}?status=queued", list_url("session"),
        page_url("message", message.pk), act_url("session", "pause", alpha.pk), "/whatsapp/messages",
        "/whatsapp/messages?session=alpha", "/whatsapp/sessions/alpha", "/whatsapp/queues",
    ]  # fmt: skip
    lengthen(message, 150)
    of_few = costs(urls, is_warm=False)
    lengthen(message, BACKLOG, start=151)
    fill_list(own_redis, keys.queue_key("alpha"), MILLION)
    assert_redis_is_never_blocked(own_redis, asked_for(urls, of_few))
    client = boss()
    # A list reads what it shows, and where to go on; it counts nothing.
    for url in (newest, f"{newest}?session=alpha"):
        with rows_read("wa_message") as read:
            client.get(url)
            assert 100 <= read() < 500, url


@pytest.mark.fault(27)
def test_a_report_of_ten_thousand_findings_is_read_in_pages(own_redis: redis.Redis) -> None:
    own_redis.rpush("queue:gone", legacy_entry("x"))
    done = run()
    finding = done.findings.get()
    urls = [page_url("reconciliation", done.pk), f"{page_url('reconciliation', done.pk)}?p=2"]
    urls += [list_url("reconciliation"), "/whatsapp/reconciliations"]
    clone(finding, 250)
    of_few = costs(urls, is_warm=False)
    clone(finding, MANY, start=251)
    assert ReconciliationFinding.objects.count() == MANY
    assert costs(urls) == of_few
    (item,) = ApiClient().get("/whatsapp/reconciliations")["items"]
    assert len(item["findings"]) == 100


@pytest.mark.fault(26)
@pytest.mark.parametrize("is_archived", [False, True])
def test_entries_of_ten_megabytes_are_held_few_at_a_time_and_all_of_them_shown(
    is_archived: bool, own_redis: redis.Redis
) -> None:
    count = 12
    for at in range(count):
        own_redis.rpush("queue:gone", b"%02d" % at + b"x" * 10 * MEGABYTE)
    assert run(policy=Policy.ARCHIVE if is_archived else Policy.REPORT)
    orphan = Orphan.objects.get()
    assert orphan.state == (OrphanState.ARCHIVED if is_archived else OrphanState.DETECTED)
    page = page_url("orphan", orphan.pk)
    costs([page, list_url("orphan"), list_url("queue"), f"/whatsapp/orphans/{orphan.pk}/messages"])
    client, seen, start = boss(), [], 0
    while start is not None:
        shown = client.get(page, {"from": str(start)}).context["page"]
        seen += [(line.index, line.raw[:2]) for line in shown.lines]
        start = shown.following
    assert seen == [(at, f"{at:02}") for at in range(count)]
    path = f"/whatsapp/orphans/{orphan.pk}/messages"
    assert [item["index"] for part in ApiClient().pages(path, 5) for item in part] == list(range(count))


@pytest.mark.fault(26)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_holds_few_large_entries_at_once(form: Any, own_redis: redis.Redis) -> None:
    for at in range(6):
        own_redis.rpush("queue:gone", b"%02d" % at + b"x" * 2 * MEGABYTE, legacy_entry(at))
    run(policy=Policy.ARCHIVE)
    orphan = Orphan.objects.get()
    parts = []
    whole = orphans.exporting.rows

    def count(*arguments: Any, **options: Any) -> Any:
        parts.append(whole(*arguments, **options))
        return parts[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orphans.exporting, "rows", count)
        lines = "".join(orphans.export_rows(orphan, form)).splitlines()
    assert len(lines) == 12 + (form == "csv")
    assert [entry.index for part in parts for entry in part] == list(range(12))
    assert all(sum(len(entry.raw) for entry in part) <= 6 * MEGABYTE for part in parts)


@pytest.mark.fault(26)
def test_jobs_of_ten_megabytes_are_read_few_at_a_time(own_redis: redis.Redis) -> None:
    for at in range(8):
        own_redis.hset(f"rq:job:j{at}", "data", b"x" * 2 * MEGABYTE)
        own_redis.rpush("rq:queue:wa:gone", f"j{at}")
    parts, start = [], 0
    while part := lists.read(b"rq:queue:wa:gone", start, is_rq=True):
        parts.append(len(part))
        start += len(part)
    assert sum(parts) == 8 and max(parts) <= 3


@pytest.mark.fault(26)
def test_lists_of_orphans_read_no_first_entry_of_ten_megabytes(own_redis: redis.Redis) -> None:
    for at in range(6):
        own_redis.rpush(f"queue:gone-{at}", b"x" * 10 * MEGABYTE)
        own_redis.rpush(f"rq:queue:wa:gone-{at}", f"j{at}")
        own_redis.sadd(keys.RQ_QUEUES, f"rq:queue:wa:gone-{at}")
        own_redis.hset(f"rq:job:j{at}", mapping={"created_at": b"x" * 10 * MEGABYTE, "data": b"x" * 10 * MEGABYTE})
    run(policy=Policy.REPORT)
    assert Orphan.objects.count() == 12
    before = own_redis.info("stats")["total_net_output_bytes"]
    costs([list_url("orphan"), list_url("queue"), "/whatsapp/queues", "/whatsapp/orphans", "/admin/"])
    assert own_redis.info("stats")["total_net_output_bytes"] - before < MOST
