"""What is left of a queue that was written anew, when a rebuild and a reconciliation are at it at once."""

import threading
from contextlib import suppress
from typing import Any

import pytest
import redis

from sessions_app.models import OrphanEntry
from sessions_app.queues import keys, lists
from sessions_app.reconciliation.replaced import settle_replaced
from tests.factories import at_once, make_session
from tests.reconciliation_lab import stock_queue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ready")]


TEXTS = [str(number) for number in range(3 * lists.CHUNK)]


@pytest.fixture
def replaced(redis_client: redis.Redis) -> bytes:
    """A replaced list of three parts that no row knows: the second is what two might drop after the first."""
    make_session()
    stock_queue(redis_client, "alpha", TEXTS)
    key = lists.replaced_key(keys.queue_key("alpha").encode())
    redis_client.rename(keys.queue_key("alpha"), key)
    return key


@pytest.mark.fault(16)
@pytest.mark.parametrize("is_found_later", [False, True])
def test_two_at_one_replaced_list_save_each_unknown_job_of_it(
    is_found_later: bool, replaced: bytes, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, drop_first, has_read = threading.Barrier(2), lists.drop_first, threading.Event()

    def drop_together(*arguments: Any, **options: Any) -> None:
        """Drop when both have read, and go on when both have dropped; alone once the other one has ended."""
        has_read.set()
        with suppress(threading.BrokenBarrierError):
            together.wait(30)
        drop_first(*arguments, **options)
        with suppress(threading.BrokenBarrierError):
            together.wait(30)

    def settle(key: bytes) -> int:
        try:
            return settle_replaced(key)
        finally:
            together.abort()

    def settle_what_is_found() -> int:
        assert has_read.wait(30)
        (found,) = redis_client.scan_iter("waqueue:replaced:*")
        return settle(found)

    monkeypatch.setattr(lists, "drop_first", drop_together)
    second = settle_what_is_found if is_found_later else lambda: settle(replaced)
    assert sum(at_once(lambda: settle(replaced), second)) == len(TEXTS)
    assert sorted(entry.content["text"] for entry in OrphanEntry.objects.all()) == sorted(TEXTS)
    assert list(redis_client.scan_iter("waqueue:replaced:*")) == list(redis_client.scan_iter("rq:job:*")) == []
