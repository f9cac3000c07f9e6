"""Batches: thousands of messages kept at once, in order, in both stores, at a cost that does not grow with them."""

import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
import redis
from django.db import DataError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions_app.exceptions import SessionNotFound
from sessions_app.models import (
    Batch,
    Event,
    EventKind,
    Message,
    Priority,
    Session,
    Status,
    new_id,
)
from sessions_app.queues import keys
from sessions_app.services import batches, messages, sessions
from sessions_app.services.messages import Draft
from sessions_app.services.pacing import Pacing
from tests.batch_lab import counts, drafts, hand_in, of, state
from tests.factories import (
    ACTOR,
    Threads,
    become,
    hold,
    in_an_hour,
    is_due,
    job_ids,
    line,
    make_session,
    observer,
    submit,
    wait_until_blocked,
)
from tests.round_trips import round_trips

pytestmark = pytest.mark.django_db(transaction=True)


# Taking them in.


def test_ten_thousand_are_kept_in_order_in_both_stores(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "before")
    batch = hand_in(session, *range(10_000))
    submit(session, "after")
    made = of(batch)
    assert [message.text for message in made] == [str(number) for number in range(10_000)]
    assert [message.seq for message in made] == list(range(2, 10_002))
    assert len({message.pk for message in made}) == 10_000
    assert job_ids(redis_client, "alpha") == line(session)
    assert len(line(session)) == 10_002
    assert is_due(redis_client, "alpha")
    assert redis_client.exists(*(keys.job_key(message.pk) for message in made)) == 10_000
    told = Event.objects.filter(message__batch_id=batch.pk)
    assert Counter(told.values_list("kind", flat=True)) == {"message.queued": 10_000}
    assert told.values("message").distinct().count() == 10_000
    batch.refresh_from_db()
    assert (batch.session, batch.accepted, batch.rejected, batch.created_by) == (session, 10_000, 0, ACTOR.label)
    assert (batch.cancelled_at, state(batch)) == (None, "queued")


def cost(session: Session, handed: Sequence[Draft]) -> tuple[int, int]:
    with CaptureQueriesContext(connection) as queries, round_trips() as asked:
        batches.submit(session, handed, rejected=0, actor=ACTOR)
    return len(queries), asked.count


@pytest.mark.parametrize("kind", ["normal", "mixed"])
def test_however_many_they_are_it_takes_the_same_statements_and_few_round_trips(kind: str) -> None:
    session = make_session()
    at = in_an_hour()

    def some(count: int) -> list[Draft]:
        if kind == "normal":
            return drafts(*range(count))
        ways = itertools.cycle([{}, {"priority": Priority.HIGH}, {"scheduled_at": at}])
        return [drafts(number, **way)[0] for number, way in zip(range(count), ways, strict=False)]

    cost(session, some(3))
    few, _ = cost(session, some(200))
    many, trips = cost(session, some(10_000))
    assert few == many <= 11
    assert trips <= 5


def test_each_call_of_a_put_is_a_small_one_however_large_its_messages_are(quiet_redis: redis.Redis) -> None:
    session = make_session()
    submit(session, *range(20), priority=Priority.HIGH)
    quiet_redis.config_resetstat()
    # What compresses to nothing is no load.
    texts = ["".join(chr(0x4E00 + (at * 31 + number * 7919) % 20_000) for number in range(20_000)) for at in range(30)]
    hand_in(session, *texts)
    assert quiet_redis.info("commandstats")["cmdstat_evalsha"]["calls"] >= 3
    assert job_ids(quiet_redis, "alpha") == line(session)


def test_high_ones_of_a_batch_go_before_what_is_normal_and_behind_what_is_high(redis_client: redis.Redis) -> None:
    session = make_session()
    submit(session, "n1", "n2")
    submit(session, "h1", priority=Priority.HIGH)
    handed = [drafts(number, priority=Priority(number % 2))[0] for number in range(1200)]
    batch = batches.submit(session, handed, rejected=0, actor=ACTOR)
    submit(session, "h2", priority=Priority.HIGH)
    assert job_ids(redis_client, "alpha") == line(session)
    texts = dict(Message.objects.values_list("pk", "text"))
    shown = [texts[key] for key in Message.objects.open().in_order().values_list("pk", flat=True)]
    high, normal = [str(at) for at in range(0, 1200, 2)], [str(at) for at in range(1, 1200, 2)]
    assert shown == ["h1", *high, "h2", "n1", "n2", *normal]
    assert counts(batch) == {"queued": 1200}


def test_what_is_scheduled_in_a_batch_has_its_place_and_waits(redis_client: redis.Redis) -> None:
    session = make_session()
    at = in_an_hour()
    handed = [*drafts("a"), *drafts("later", scheduled_at=at), *drafts("b")]
    batch = batches.submit(session, handed, rejected=2, actor=ACTOR)
    assert [(message.seq, message.status) for message in of(batch)] == [(1, "queued"), (2, "scheduled"), (3, "queued")]
    assert len(job_ids(redis_client, "alpha")) == 2
    assert Event.objects.get(message=of(batch)[1]).kind == EventKind.MESSAGE_SCHEDULED
    assert batch.rejected == 2
    assert state(batch) == "queued"


NASTY = [
    "tab\tnew\nline\rback\\slash \\N \\. \\t", "\\.", "\\N", "", " ", "\x01\x1f\x7f", "'\"`;--", "ñandú 🦤 \u202e abc",
    "{}", "%s %(x)s", "\u2028\u2029",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_what_is_copied_in_is_kept_to_the_letter(text: str, redis_client: redis.Redis) -> None:
    metadata = {"text": text, "n": [1, None, True, 1.5, {"a": text}]}
    (draft,) = drafts(
        text, type="document", media_url="https://a.example/" + text, filename=text, caption=text,
        template={"name": text, "components": [{"x": None}]}, client_ref=text, metadata=metadata,
        expires_at=in_an_hour(), priority=Priority.HIGH,
    )  # fmt: skip
    batch = batches.submit(make_session(), [draft], rejected=0, actor=ACTOR)
    (message,) = of(batch)
    for name in Draft.__slots__:
        assert getattr(message, "recipient" if name == "to" else name) == getattr(draft, name), name
    assert (message.attempts, message.resends, message.orphan_id, message.sent_at) == (0, 0, None, None)


def test_a_batch_is_kept_whole_or_not_at_all(redis_client: redis.Redis) -> None:
    session = make_session()
    with pytest.raises(DataError):
        batches.submit(session, [*drafts(*range(500)), Draft(to="9" * 17, text="too long")], rejected=0, actor=ACTOR)
    assert not Message.objects.exists() and not Batch.objects.exists()
    assert not Event.objects.exclude(message=None).exists()
    assert job_ids(redis_client, "alpha") == []
    assert submit(session, "next")[0].seq == 1


def test_its_row_is_committed_with_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def put(*_: object) -> None:
        with observer() as looking:
            rows = looking.execute("SELECT b.accepted, count(*) FROM wa_batch b, wa_message m GROUP BY b.id").fetchall()
        seen.append(rows)

    monkeypatch.setattr(messages, "put", put)
    hand_in(make_session(), *"abc")
    assert seen == [[(3, 3)]]


def test_a_batch_without_a_message_is_done() -> None:
    batch = batches.submit(make_session(), [], rejected=3, actor=ACTOR)
    assert (batch.accepted, batch.rejected, counts(batch), state(batch)) == (0, 3, {}, "done")


def test_nothing_slips_into_a_session_that_is_deleted() -> None:
    session = make_session()
    sessions.delete(session, actor=ACTOR)
    with pytest.raises(SessionNotFound):
        hand_in(session, *"abc")
    assert not Batch.objects.exists() and not Message.objects.exists()


def test_batches_and_single_messages_handed_in_at_once_each_stand_together_in_the_order_of_their_commits(
    redis_client: redis.Redis,
) -> None:
    session = make_session()

    def batch(name: int) -> None:
        for at in range(3):
            hand_in(session, *(f"{name}.{at}.{number}" for number in range(300)))

    def singles() -> None:
        for _ in range(40):
            submit(session, "single")

    with observer() as looking:
        clients = Threads([*(lambda name=name: batch(name) for name in range(3)), *[singles] * 3])
        while not clients.is_over:
            places = [seq for (seq,) in looking.execute("SELECT seq FROM wa_message ORDER BY seq").fetchall()]
            # No gap: whoever sends the first open message now never learns of an earlier one later.
            assert places == list(range(1, len(places) + 1))
    assert clients.join() == [None] * 6
    texts = list(Message.objects.order_by("seq").values_list("text", flat=True))
    assert len(texts) == 9 * 300 + 120
    runs = [list(group) for _, group in itertools.groupby(texts, key=lambda text: text.rpartition(".")[0])]
    together = [run for run in runs if run[0] != "single"]
    assert len(together) == 9
    for run in together:
        name = run[0].rpartition(".")[0]
        assert run == [f"{name}.{number}" for number in range(300)]
    # The second of each client stands behind its first.
    assert all(
        [name for name in (run[0].rpartition(".")[0] for run in together) if name[0] == str(client)]
        == [f"{client}.{at}" for at in range(3)]
        for client in range(3)
    )
    assert sorted(job_ids(redis_client, "alpha")) == sorted(line(session))


def test_a_batch_waits_for_one_that_is_being_handed_in_and_stands_behind_it() -> None:
    session = make_session()
    with observer() as other:
        other.autocommit = False
        other.execute("UPDATE wa_session_counter SET next_seq = next_seq + 5 WHERE session_id = %s", [session.pk])
        handing = Threads([lambda: hand_in(session, *"abc")])
        wait_until_blocked()
        other.commit()
    (batch,) = handing.join()
    assert [message.seq for message in of(batch)] == [6, 7, 8]


# How far they are.


def test_a_batch_is_queued_sending_done_or_cancelled_as_its_messages_say() -> None:
    session = make_session()
    batch = hand_in(session, *"abcd")
    a, b, c, d = of(batch)
    assert state(batch) == "queued"
    become(a, Status.SENDING)
    assert state(batch) == "sending"
    become(a, Status.SENT)
    assert state(batch) == "sending"
    become(b, Status.FAILED)
    become(c, Status.UNCERTAIN)
    become(d, Status.EXPIRED)
    assert state(batch) == "done"
    assert counts(batch) == {"sent": 1, "failed": 1, "uncertain": 1, "expired": 1}
    messages.retry(b.pk, actor=ACTOR)
    assert state(batch) == "sending"
    assert batches.cancel(batch.pk, actor=ACTOR).cancelled == 1
    assert state(batch) == "cancelled"


def test_counts_are_of_the_batches_asked_for_alone() -> None:
    session = make_session()
    one, two = hand_in(session, *"abc"), hand_in(session, *"de")
    submit(session, "single")
    become(of(two)[0], Status.SENT)
    nobody = new_id()
    assert Message.objects.counted_by_batch([one.pk, two.pk, nobody]) == {
        one.pk: {"queued": 3}, two.pk: {"sent": 1, "queued": 1}, nobody: {},
    }  # fmt: skip


def test_counting_reads_the_index_alone_and_lists_of_a_batch_use_it_too() -> None:
    session = make_session()
    # A small part of the table, so that no planner prefers to walk all of it by its key.
    batch = hand_in(session, *range(20))
    hand_in(session, *range(300))
    submit(session, *"x" * 300)
    newest = Message.objects.filter(batch_id=batch.pk).order_by("-pk")[:100]
    with CaptureQueriesContext(connection) as queries:
        counts(batch)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE wa_message")
        for switch in ("enable_seqscan", "enable_bitmapscan"):
            cursor.execute(f"SET {switch} = off")
        try:
            cursor.execute("EXPLAIN " + queries[0]["sql"])
            counting = "\n".join(row[0] for row in cursor.fetchall())
            listing = newest.explain()
        finally:
            cursor.execute("RESET enable_seqscan")
            cursor.execute("RESET enable_bitmapscan")
    assert "Index Only Scan using wa_message_of_batch" in counting
    assert "wa_message_of_batch" in listing and "Sort" not in listing


def test_the_estimate_is_that_of_the_last_message_at_the_sessions_pace() -> None:
    session = make_session(pacing=Pacing(min_interval_ms=1000, max_interval_ms=3000))
    submit(session, *"abc")
    batch = hand_in(session, *range(10))
    submit(session, *"later")
    now = timezone.now()
    assert batches.estimated_done_at(batches.get(batch.pk), now) == now + timedelta(seconds=24)
    at = in_an_hour()
    with_later = batches.submit(session, [*drafts("x"), *drafts("y", scheduled_at=at)], rejected=0, actor=ACTOR)
    assert batches.estimated_done_at(with_later, now) == at
    only_later = hand_in(session, "z", scheduled_at=at)
    assert batches.estimated_done_at(only_later, now) == at
    retried = of(batch)[-1]
    become(retried, Status.QUEUED, next_attempt_at=at)
    assert batches.estimated_done_at(batch, now) == at
    hold(session, "refused")
    for each in (batch, with_later, only_later):
        assert batches.estimated_done_at(batches.get(each.pk), now) is None


def test_nothing_is_estimated_where_nothing_waits() -> None:
    session = make_session()
    batch = hand_in(session, "x")
    become(of(batch)[0], Status.SENT)
    assert batches.estimated_done_at(batch, timezone.now()) is None
