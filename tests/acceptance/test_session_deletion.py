"""A session is deleted while a worker sends from it: what the engine may have keeps it, the rest goes as was said."""

from collections.abc import Callable

import pytest

from sessions_app.models import Message, Orphan, Status
from sessions_app.services import orphans
from sessions_app.services.pacing import Pacing
from tests.acceptance.engine import Engine, Gate
from tests.acceptance.stack import ACTOR, Stack
from tests.acceptance.web import call
from tests.api_client import ApiClient
from tests.processes import wait_until
from tests.reconciliation_lab import texts_of

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True), pytest.mark.fault(19)]

# So long that nothing goes between the first message and the deletion.
SLOW = Pacing(min_interval_ms=600_000, max_interval_ms=600_000)


def test_a_message_in_the_engine_keeps_its_session_and_the_rest_goes_as_the_caller_says_once_it_has_landed(
    stack: Stack, engine: Engine, web: Callable[..., int]
) -> None:
    key = ApiClient().plain
    port = web()
    gate = engine.on_send = Gate(held=0)
    for name in ("alpha", "beta"):
        stack.submit(engine.session(name, pacing=SLOW), range(4))
    stack.ready_worker()
    wait_until(lambda: engine.ledger("alpha") == engine.ledger("beta") == [0], 60, "the first of each is in the engine")
    for query in ("", "?unsent=refuse", "?unsent=cancel", "?unsent=orphan"):
        status, problem = call(port, "DELETE", f"/whatsapp/sessions/alpha{query}", key=key)
        assert (status, problem["code"], problem["unsent"]) == (409, "session_has_unsent_messages", 4)
    assert (stack.count(Status.SENDING), stack.count(Status.QUEUED)) == (2, 6)

    gate.is_open = True
    stack.wait_for(2, Status.SENT, within_s=30)
    for name, how, orphaned, cancelled in (("alpha", "orphan", 3, 0), ("beta", "cancel", 0, 3)):
        answer = call(port, "DELETE", f"/whatsapp/sessions/{name}?unsent={how}", key=key)
        assert answer == (200, {"session": name, "orphaned": orphaned, "cancelled": cancelled, "uncertain": 0})
    assert not Message.objects.open().exclude(status=Status.ORPHANED).exists()
    assert (stack.count(Status.SENT), stack.count(Status.ORPHANED), stack.count(Status.CANCELLED)) == (2, 3, 3)
    assert texts_of(Orphan.objects.get()) == ["1", "2", "3"]

    # What waits in the orphan goes when a person says where; what was cancelled never does.
    assert orphans.restore(Orphan.objects.get(), engine.session("gamma"), actor=ACTOR).restored == 3
    stack.wait_for(5, Status.SENT, within_s=30)
    assert [engine.ledger(name) for name in ("alpha", "beta", "gamma")] == [[0], [0], [1, 2, 3]]
