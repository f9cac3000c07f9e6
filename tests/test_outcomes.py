"""What an engine answers decides what becomes of the message, of its session, and of its next attempt."""

import random
import uuid
from typing import Any

import pytest

from sessions_app.exceptions import (
    NotConnected,
    OutcomeUnknown,
    PermanentError,
    RetryableError,
    SendError,
    SessionRefused,
)
from sessions_app.models import EventKind, Hold, ObservedState, OnUncertain, Outcome, Status
from sessions_app.worker.outcomes import (
    Flight,
    Settlement,
    accepted,
    backoff_ms,
    died,
    died_alone,
    refused,
    returned,
)


def flight(attempts: int = 1, max_attempts: int = 5, on_uncertain: str = OnUncertain.HOLD) -> Flight:
    return Flight(
        token=7, message_id=uuid.uuid4(), session_id=1, session_name="alpha", transport="loopback",
        on_uncertain=on_uncertain, attempts=attempts, max_attempts=max_attempts, has_more=False, fenced_at=0.0,
        deadline=60.0,
    )  # fmt: skip


def said(settlement: Settlement, **expected: Any) -> None:
    assert {name: getattr(settlement, name) for name in expected} == expected


def test_an_id_makes_it_sent() -> None:
    said(
        accepted(flight(), "wamid.1"),
        outcome=Outcome.SENT, status=Status.SENT, event=EventKind.MESSAGE_SENT, provider_id="wamid.1",
        error_class="", retry_ms=0, refund=0, resend=0, hold=Hold.NONE, observed="", is_paced=True,
    )  # fmt: skip


def test_an_answer_without_an_id_is_uncertain() -> None:
    said(
        accepted(flight(), ""),
        outcome=Outcome.UNCERTAIN, status=Status.UNCERTAIN, event=EventKind.MESSAGE_UNCERTAIN,
        error_class="uncertain", error_detail="the engine answered without an id", hold=Hold.NONE,
    )  # fmt: skip


def test_an_id_longer_than_its_column_is_cut() -> None:
    assert len(accepted(flight(), "x" * 5000).provider_id) == 200


# Refused for now


def test_a_refusal_for_now_is_tried_again_after_a_wait() -> None:
    settlement = refused(flight(attempts=4), RetryableError("busy", provider_code="429"))
    said(
        settlement,
        outcome=Outcome.RETRY, status=Status.QUEUED, event=EventKind.MESSAGE_RETRIED, error_class="retry",
        error_code="429", error_detail="busy", refund=0, resend=0, hold=Hold.NONE, is_paced=True,
    )  # fmt: skip
    assert 0 <= settlement.retry_ms <= 16_000


def test_a_refusal_of_the_last_attempt_is_a_failure() -> None:
    for attempts in (5, 6):
        said(
            refused(flight(attempts=attempts), RetryableError("busy")),
            outcome=Outcome.FAILED, status=Status.FAILED, event=EventKind.MESSAGE_FAILED, retry_ms=0,
            error_class="retry", error_detail="busy",
        )  # fmt: skip


def test_one_attempt_at_most_means_no_retry() -> None:
    assert refused(flight(attempts=1, max_attempts=1), RetryableError()).status == Status.FAILED


def test_the_engine_may_ask_for_a_longer_wait() -> None:
    assert refused(flight(), RetryableError("slow down", after_ms=90_000)).retry_ms == 90_000


def test_the_engine_cannot_ask_for_a_shorter_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda low, high: high)
    assert refused(flight(), RetryableError("now!", after_ms=1)).retry_ms == 2_000


@pytest.mark.parametrize(
    ("attempts", "longest"),
    [(1, 2_000), (2, 4_000), (3, 8_000), (8, 256_000), (9, 512_000), (10, 600_000), (500, 600_000)],
)
def test_the_wait_grows_with_the_attempts_up_to_ten_minutes(attempts: int, longest: int) -> None:
    waits = [backoff_ms(attempts) for _ in range(2000)]
    assert min(waits) >= 0
    assert max(waits) <= longest
    # Spread over all of it: many that failed together do not come back together.
    assert max(waits) > 0.9 * longest
    assert min(waits) < 0.1 * longest


# Not connected, refused


def test_not_connected_holds_the_session_and_costs_no_attempt() -> None:
    said(
        refused(flight(attempts=5), NotConnected("no link")),
        outcome=Outcome.HELD, status=Status.QUEUED, event="", error_class="not_connected", error_detail="no link",
        refund=1, retry_ms=0, hold=Hold.NOT_CONNECTED, observed=ObservedState.STOPPED, is_paced=False,
    )  # fmt: skip


def test_a_refused_session_is_held_and_costs_no_attempt() -> None:
    said(
        refused(flight(attempts=5), SessionRefused("banned", provider_code="131031")),
        outcome=Outcome.REFUSED, status=Status.QUEUED, event="", error_class="refused", error_code="131031",
        refund=1, retry_ms=0, hold=Hold.REFUSED, observed=ObservedState.FAILED, is_paced=False,
    )  # fmt: skip


def test_what_will_never_be_accepted_fails_at_once_and_the_session_goes_on() -> None:
    said(
        refused(flight(attempts=1), PermanentError("no such number", provider_code="131026")),
        outcome=Outcome.FAILED, status=Status.FAILED, event=EventKind.MESSAGE_FAILED, error_class="permanent",
        error_code="131026", refund=0, hold=Hold.NONE, observed="", is_paced=True,
    )  # fmt: skip


# Uncertain

UNCERTAIN = {
    "outcome": Outcome.UNCERTAIN, "status": Status.UNCERTAIN, "event": EventKind.MESSAGE_UNCERTAIN,
    "error_class": "uncertain", "retry_ms": 0, "refund": 0, "resend": 0, "is_paced": True,
}  # fmt: skip


def test_under_hold_the_message_waits_and_the_session_goes_on() -> None:
    said(refused(flight(), OutcomeUnknown("timeout")), **UNCERTAIN, hold=Hold.NONE, error_detail="timeout")


def test_under_hold_session_the_session_waits_too() -> None:
    unknown = refused(flight(on_uncertain=OnUncertain.HOLD_SESSION), OutcomeUnknown("timeout"))
    said(unknown, **UNCERTAIN, hold=Hold.UNCERTAIN)


def test_under_resend_it_is_sent_again_after_a_wait_and_both_are_written_down() -> None:
    settlement = refused(flight(attempts=4, on_uncertain=OnUncertain.RESEND), OutcomeUnknown("timeout"))
    said(
        settlement,
        outcome=Outcome.UNCERTAIN, status=Status.QUEUED, event=EventKind.MESSAGE_RESENT, resend=1, refund=0,
        error_class="uncertain", hold=Hold.NONE,
    )  # fmt: skip
    assert 0 <= settlement.retry_ms <= 16_000


def test_under_resend_the_engine_is_asked_first_where_it_can_be(settings: Any) -> None:
    settings.WAQUEUE_LOOK_UP_SECONDS = [3, 15, 60]
    unsure, unknown = flight(on_uncertain=OnUncertain.RESEND), OutcomeUnknown("timeout")
    assert refused(unsure, unknown).retry_ms > 60_000 + 10_000
    unsure.transport = "one that cannot be asked"
    assert refused(unsure, unknown).retry_ms <= 2_000
    # Whoever is only to be told is told at once.
    assert refused(flight(), unknown).retry_ms == 0


def test_under_resend_the_last_attempt_is_left_to_a_person() -> None:
    unknown = refused(flight(attempts=5, on_uncertain=OnUncertain.RESEND), OutcomeUnknown("timeout"))
    said(unknown, **UNCERTAIN, hold=Hold.NONE)


class OwnError(SendError):
    """An adapter's own error."""


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError("what"), "ValueError: what"),
        (KeyError("id"), "KeyError: 'id'"),
        (TimeoutError(), "TimeoutError: "),
        (ConnectionResetError("reset"), "ConnectionResetError: reset"),
        (BaseException("odd"), "BaseException: odd"),
    ],
)
def test_whatever_nobody_foresaw_is_uncertain(error: BaseException, detail: str) -> None:
    said(refused(flight(), error), **UNCERTAIN, error_detail=detail)


def test_a_send_error_of_no_known_class_is_uncertain() -> None:
    settlement = refused(flight(), OwnError("odd"))
    assert (settlement.outcome, settlement.status) == (Outcome.UNCERTAIN, Status.UNCERTAIN)


@pytest.mark.parametrize("error", [RetryableError, NotConnected, PermanentError, SessionRefused])
@pytest.mark.parametrize("policy", OnUncertain)
def test_the_policy_for_the_uncertain_changes_nothing_else(error: type[SendError], policy: str) -> None:
    settlement = refused(flight(on_uncertain=policy), error("said so"))
    assert settlement.outcome != Outcome.UNCERTAIN
    assert settlement.resend == 0
    assert settlement.hold != Hold.UNCERTAIN


def test_what_an_engine_says_is_cut_to_what_the_columns_hold() -> None:
    settlement = refused(flight(), PermanentError("d" * 9000, provider_code="c" * 9000))
    assert (len(settlement.error_detail), len(settlement.error_code)) == (1000, 100)


# Put back


def test_what_was_certainly_not_handed_over_is_put_back_and_costs_nothing() -> None:
    said(
        returned(flight(), "frozen", wait_ms=250),
        outcome=Outcome.RETURNED, status=Status.QUEUED, event=EventKind.MESSAGE_RETURNED, error_detail="frozen",
        retry_ms=250, refund=1, hold=Hold.NONE, is_paced=False,
    )  # fmt: skip


@pytest.mark.fault(23)
def test_a_death_in_company_makes_a_suspect_and_sets_nobody_aside() -> None:
    suspect = flight(on_uncertain=OnUncertain.RESEND)
    suspect.deaths = 7
    said(died(suspect, "its worker died"), status=Status.QUEUED, death=1, resend=1, error_class="uncertain")


@pytest.mark.fault(23)
@pytest.mark.parametrize("policy", OnUncertain)
def test_the_third_death_sets_aside_whatever_the_policy_and_only_if_it_was_alone(policy: str) -> None:
    lethal = flight(on_uncertain=policy)
    lethal.deaths = 1
    assert died_alone(lethal).error_class == "uncertain"
    lethal.deaths = 2
    said(
        died_alone(lethal),
        outcome=Outcome.UNCERTAIN, status=Status.UNCERTAIN, event=EventKind.MESSAGE_POISON, error_class="poison",
        death=1, resend=0, hold=Hold.UNCERTAIN if policy == OnUncertain.HOLD_SESSION else Hold.NONE,
        error_detail="3 times the process that was sending it died, the last time with nothing else in it",
    )  # fmt: skip
