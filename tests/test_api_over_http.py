"""The API as it is served: real gunicorn, real bytes, and stores that go away and come back."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from tests.api_client import Answer
from tests.factories import job_ids
from tests.processes import Process, rqworker, wait_until
from tests.servers import Servers
from tests.site import Site

pytestmark = pytest.mark.acceptance

CHROMIUM = "/usr/bin/chromium"
HELLO = {"to": "+51930246633", "text": "hello"}
MESSAGES = "/whatsapp/sessions/alpha/messages"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a waqueue for the tests of this file; each leaves it whole."""
    servers = Servers()
    try:
        log = tmp_path_factory.mktemp("site") / "web.log"
        site = Site(servers.postgres(), servers.valkey(), log, WAQUEUE_MAX_BODY_BYTES="1048576")
        site.process.start()
        try:
            wait_until(site.is_answering, 30, "the web process answers")
            assert site.call("POST", "/whatsapp/sessions", {"name": "alpha"}).status == 201
            yield site
        finally:
            site.process.kill()
    finally:
        servers.close()


def head(site: Site, *lines: str) -> bytes:
    every = [
        f"POST {MESSAGES} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {site.key}",
        "Content-Type: application/json", "Connection: close", *lines,
    ]  # fmt: skip
    return ("\r\n".join(every) + "\r\n\r\n").encode()


def test_a_body_over_the_limit_is_413_whether_it_is_read_or_not(site: Site) -> None:
    body = json.dumps(HELLO).ljust(3 * 1024 * 1024).encode()
    answer = site.raw(head(site, f"Content-Length: {len(body)}") + body)
    assert answer.status == 413 and answer["code"] == "body_too_large"
    assert site.call("GET", "/livez").status == 200


def test_a_body_in_chunks_is_refused_and_never_taken_for_an_empty_one(site: Site) -> None:
    body = json.dumps(HELLO).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    answer = site.raw(head(site, "Transfer-Encoding: chunked") + chunks)
    assert answer.status == 411 and answer["code"] == "length_required"


def test_head_has_no_body_and_the_connection_goes_on(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    for method in ("HEAD", "GET", "HEAD"):
        connection.request(method, "/livez")
        response = connection.getresponse()
        assert response.status == 200 and response.getheader("Content-Length") == "16"
        assert len(response.read()) == (16 if method == "GET" else 0)
    connection.close()


@pytest.mark.fault(13)
def test_without_postgresql_nothing_is_accepted_and_livez_answers(site: Site) -> None:
    site.postgres.kill()
    try:
        assert site.call("GET", "/livez").status == 200
        for method, path, body in (
            ("GET", "/readyz", None),
            ("POST", MESSAGES, HELLO),
            ("GET", "/whatsapp/queues", None),
            ("GET", "/whatsapp/messages", None),
        ):
            answer = site.call(method, path, body)
            assert (answer.status, answer["code"]) == (503, "database_unavailable"), path
            assert int(answer.headers["Retry-After"]) > 0
            assert "PostgreSQL" in answer["detail"]
        assert site.call("GET", "/whatsapp/nothing").status == 404
    finally:
        site.postgres.start()
    wait_until(lambda: site.call("GET", "/readyz").status == 200, 30, "PostgreSQL is back")
    assert site.call("POST", MESSAGES, HELLO).status == 202


@pytest.mark.fault(11)
def test_without_redis_a_message_is_accepted_within_300_ms_and_queued_when_it_is_back(
    site: Site, process: Callable[..., Process]
) -> None:
    # Paused: what is in its queue stays there to be seen.
    assert site.call("POST", "/whatsapp/sessions", {"name": "away"}).status == 201
    assert site.call("POST", "/whatsapp/sessions/away/pause").status == 202
    ids = []
    site.redis.kill()
    try:
        took = []
        for _ in range(5):
            began = time.monotonic()
            answer = site.call("POST", "/whatsapp/sessions/away/messages", HELLO)
            took.append(time.monotonic() - began)
            assert answer.status == 202
            ids.append(answer["id"])
        assert sorted(took)[2] < 0.3, took
        ready = site.call("GET", "/readyz")
        assert ready["status"] == "degraded" and any("Redis" in reason for reason in ready["reasons"])
        assert site.call("GET", "/whatsapp/queues")["degraded"] is True
    finally:
        site.redis.start()
    assert site.call("GET", "/whatsapp/queues")["degraded"] is False
    assert site.call("GET", "/whatsapp/sessions/away")["depth"] == 5
    # Whichever worker first sees that Redis was restarted puts it in order.
    worker = process(rqworker, site.environ)
    with redis.Redis.from_url(site.redis.url) as client:
        wait_until(lambda: job_ids(client, "away") == ids, 60, "they are in the queue")
    assert site.call("POST", "/whatsapp/sessions/away/resume").status == 202
    wait_until(lambda: site.call("GET", "/whatsapp/sessions/away")["depth"] == 0, 30, "they are sent")
    assert worker.stop() == 0


@pytest.mark.fault(28)
def test_the_same_idempotency_key_from_fifty_clients_at_once_makes_one_message(site: Site) -> None:
    before = site.call("GET", "/whatsapp/sessions/alpha")["depth"]
    together = threading.Barrier(50, timeout=30)

    def send(_: int) -> Answer:
        together.wait()
        return site.call("POST", MESSAGES, HELLO, Idempotency_Key="one-and-the-same")

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(send, range(50)))
    accepted = [answer for answer in answers if answer.status == 202]
    assert len([answer for answer in accepted if "Idempotency-Replayed" not in answer.headers]) == 1
    assert {answer["code"] for answer in answers if answer not in accepted} <= {"idempotency_key_in_use"}
    assert len({answer["id"] for answer in accepted}) == 1
    assert site.call("GET", "/whatsapp/sessions/alpha")["depth"] == before + 1


def test_a_key_made_at_the_command_line_opens_at_once(site: Site) -> None:
    printed = site.manage("create_api_key", "reader", "--scope", "read")
    assert printed.count("\n") == 1
    answer = site.call("GET", "/whatsapp/sessions", Authorization=f"Bearer {printed.strip()}")
    assert answer.status == 200
    assert site.call("POST", MESSAGES, HELLO, Authorization=f"Bearer {printed.strip()}").status == 403


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium on this machine")
def test_the_documents_page_works_in_a_browser_under_the_strict_policy_without_the_internet(site: Site) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    base = f"http://127.0.0.1:{site.port}"
    heard: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic", "--disable-background-networking"]
        )
        page = browser.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{base}/whatsapp/docs")
        page.locator(".btn.authorize").first.click()
        page.locator(".auth-container input").first.fill(site.key)
        page.locator(".auth-btn-wrapper .authorize").first.click()
        page.locator(".btn-done").first.click()
        operation = page.locator("#operations-Sessions-list_sessions")
        operation.locator("button.opblock-summary-control").click()
        operation.locator(".try-out__btn").click()
        operation.locator(".execute").click()
        table = operation.locator(".live-responses-table")
        table.wait_for()
        shown = table.inner_text()
        browser.close()
    assert "200" in shown and '"alpha"' in shown
    assert heard == []
    assert f"{base}/whatsapp/sessions?limit=100" in asked
    assert [url for url in asked if not url.startswith((base, "data:"))] == []
