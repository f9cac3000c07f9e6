"""The soak's count finds each kind of broken promise."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.soak import check, report
from tests.soak.facts import NOT_CONNECTED, Answer, Entry, Pause
from tests.soak_lab import Case, cancelled_by_nobody, expired_without_an_end, no_row, overtaken, refused


def _still_queued(case: Case) -> None:
    case.drop("b")
    case.row("b", status="queued", attempts=())


def _sent_but_never_taken(case: Case) -> None:
    case.drop("b")


def _two_rows(case: Case) -> None:
    case.facts.rows.append(replace(case.facts.rows[1], id="other"))


def _sent_again(case: Case) -> None:
    case.arrives("b", 101.5)
    case.fenced("b", (100.9, "uncertain"), (101.4, "sent"))


def _sent_again_after_an_unclear_answer(case: Case) -> None:
    case.entry("b").answer, case.entry("b").accepted = Answer.UNCLEAR, False
    case.arrives("b", 101.5)
    case.fenced("b", (100.9, "uncertain"), (101.4, "sent"))


def _sent_again_by_policy_though_its_outcome_was_known(case: Case) -> None:
    case.facts.policies["s"] = "resend"
    case.arrives("b", 101.5)
    case.row("b", resends=1)
    case.fenced("b", (100.9, "sent"), (101.4, "sent"))


def _sent_again_with_the_leave_to_resend_an_attempt_that_never_arrived(case: Case) -> None:
    case.facts.policies["s"] = "resend"
    case.arrives("b", 101.5)
    case.row("b", resends=1)
    case.fenced("b", (100.5, "uncertain"), (100.9, "retry"), (101.4, "sent"))


def _resent_though_the_session_holds(case: Case) -> None:
    case.row("b", resends=1)


def _called_failed_though_taken(case: Case) -> None:
    case.facts.policies["s"] = "resend"
    case.arrives("b", 101.5, Answer.REFUSED, said="400")
    case.fenced("b", (100.9, "uncertain"), (101.4, "failed"))
    case.row("b", status="failed", told=frozenset({"message.failed"}), resends=1)


def _called_cancelled_though_taken(case: Case) -> None:
    case.cancelled("b")
    case.facts.cancelled_by_client.add("bbbbbbbb")


def _called_expired_though_taken_before_its_resend(case: Case) -> None:
    case.facts.policies["s"] = "resend"
    case.fenced("b", (100.9, "uncertain"))
    case.row("b", status="expired", resends=1, expires_at=102.0, expired_at=102.5)


def _expired_before_its_end(case: Case) -> None:
    expired_without_an_end(case)
    case.row("b", expires_at=120.0)


def _failed_without_a_refusal(case: Case) -> None:
    case.drop("b")
    case.fenced("b", (100.9, "failed"))
    case.row("b", status="failed", told=frozenset({"message.failed"}))


def _failed_for_want_of_a_link(case: Case) -> None:
    refused(case, NOT_CONNECTED)


def _failed_by_a_refusal_of_an_earlier_attempt(case: Case) -> None:
    refused(case, "429")
    case.fenced("b", (100.9, "retry"), (101.4, "failed"))


def _failed_though_it_was_refused_for_now(case: Case) -> None:
    refused(case, "429")
    case.fenced("b", (100.9, "retry"))


def _uncertain_though_all_is_known(case: Case) -> None:
    case.row("b", status="uncertain", told=frozenset({"message.uncertain"}))


def _without_an_attempt(case: Case) -> None:
    case.fenced("b")


def _before_its_attempt(case: Case) -> None:
    case.fenced("b", (101.01, "sent"))


def _twice_in_one_attempt(case: Case) -> None:
    case.entry("b").answer, case.entry("b").accepted = Answer.REFUSED, False
    case.arrives("b", 101.5)


def _in_an_attempt_that_was_put_back(case: Case) -> None:
    case.entry("b").answer, case.entry("b").accepted = Answer.REFUSED, False
    case.arrives("b", 101.5)
    case.fenced("b", (100.9, "returned"), (101.4, "sent"))


def _of_no_row(case: Case) -> None:
    case.facts.promises[1].accepted_at = None
    case.facts.rows = [row for row in case.facts.rows if row.text != "b"]


def _never_handed_in(case: Case) -> None:
    case.facts.entries.append(Entry("s", "orphan-0", 110.0, True, 110.1, Answer.ACCEPTED))


def _through_another_session(case: Case) -> None:
    case.entry("b").session = "other"


def _before_the_answer(case: Case) -> None:
    case.entry("a").ended_at = 101.005


def _while_the_one_before_hangs(case: Case) -> None:
    case.entry("a").ended_at = None


def _before_the_time_of_a_longer_attempt_is_over(case: Case) -> None:
    case.facts.send_seconds = 1.2
    case.entry("a").ended_at = None


def _overtaken_between_two_tries(case: Case) -> None:
    case.entry("b").answer, case.entry("b").accepted = Answer.REFUSED, False
    case.arrives("b", 103.0)
    case.fenced("b", (100.9, "retry"), (102.9, "sent"))


def _overtaken_before_its_client_read_the_answer(case: Case) -> None:
    overtaken(case)
    case.facts.promises[1].accepted_at = 104.0


def _overtaken_though_its_client_never_read_an_answer(case: Case) -> None:
    overtaken(case)
    case.facts.promises[1].accepted_at = None


def _high_priority_overtaken(case: Case) -> None:
    case.row("c", priority=0)


def _high_priority_overtaken_by_a_later_one_before_its_client_read_the_answer(case: Case) -> None:
    _overtaken_before_its_client_read_the_answer(case)
    case.row("b", priority=0)


def _scheduled_overtaken_after_it_came_due(case: Case) -> None:
    overtaken(case)
    case.row("b", is_scheduled=True, queued_at=90.0)


def _sooner_than_its_pace(case: Case) -> None:
    case.facts.paces["s"] = 1.2


def _tried_again_sooner_than_its_pace(case: Case) -> None:
    case.facts.paces["s"] = 0.9
    case.entry("b").answer, case.entry("b").accepted = Answer.REFUSED, False
    case.arrives("b", 101.5)
    case.entry("c").arrived_at, case.entry("c").ended_at = 102.5, 102.6
    case.fenced("b", (100.9, "retry"), (101.4, "sent"))
    case.fenced("c", (102.4, "sent"))


def _sooner_to_one_recipient(case: Case) -> None:
    case.facts.recipient_paces["s"] = 2.5
    case.entry("b").chat = "another"


def _not_counted_towards_its_cap(case: Case) -> None:
    case.finished(100.1, 101.1, 102.1)
    case.facts.counted["s"] = (100.1, 2)


def _places_in_another_order(case: Case) -> None:
    case.facts.promises[0].number, case.facts.promises[1].number = 1, 0


def _while_paused(case: Case) -> None:
    case.facts.pauses.append(Pause("s", 100.5, 105.0))


def _uncertain_without_a_word(case: Case) -> None:
    case.fenced("b", (100.9, "uncertain"))
    case.row("b", status="uncertain")


def _failed_without_a_word(case: Case) -> None:
    refused(case, "400")
    case.row("b", told=frozenset())


def _something_remains(case: Case) -> None:
    case.facts.remains.append("3 flights of nobody")


_BROKEN: list[tuple[str, Callable[[Case], None]]] = [
    ("lost", no_row), ("lost", _still_queued), ("lost", _sent_but_never_taken),
    ("doubled", _two_rows),
    ("twice", _sent_again), ("twice", _sent_again_after_an_unclear_answer), ("twice", _resent_though_the_session_holds),
    ("twice", _sent_again_by_policy_though_its_outcome_was_known),
    ("twice", _sent_again_with_the_leave_to_resend_an_attempt_that_never_arrived),
    ("untrue", _called_failed_though_taken), ("untrue", _called_cancelled_though_taken),
    ("untrue", _called_expired_though_taken_before_its_resend),
    ("uncaused", cancelled_by_nobody), ("uncaused", expired_without_an_end), ("uncaused", _expired_before_its_end),
    ("uncaused", _failed_without_a_refusal), ("uncaused", _failed_for_want_of_a_link),
    ("uncaused", _failed_by_a_refusal_of_an_earlier_attempt), ("uncaused", _failed_though_it_was_refused_for_now),
    ("uncaused", _uncertain_though_all_is_known),
    ("unpromised", _never_handed_in), ("unpromised", _through_another_session),
    ("unfenced", _without_an_attempt), ("unfenced", _before_its_attempt), ("unfenced", _twice_in_one_attempt),
    ("unfenced", _in_an_attempt_that_was_put_back), ("unfenced", _of_no_row),
    ("overlap", _before_the_answer), ("overlap", _while_the_one_before_hangs),
    ("overlap", _before_the_time_of_a_longer_attempt_is_over),
    ("order", overtaken), ("order", _overtaken_between_two_tries), ("order", _high_priority_overtaken),
    ("order", _overtaken_before_its_client_read_the_answer),
    ("order", _overtaken_though_its_client_never_read_an_answer),
    ("order", _high_priority_overtaken_by_a_later_one_before_its_client_read_the_answer),
    ("order", _scheduled_overtaken_after_it_came_due),
    ("pace", _sooner_than_its_pace), ("pace", _tried_again_sooner_than_its_pace),
    ("pace", _sooner_to_one_recipient),
    ("cap", _not_counted_towards_its_cap),
    ("place", _places_in_another_order),
    ("paused", _while_paused),
    ("untold", _uncertain_without_a_word), ("untold", _failed_without_a_word),
    ("remains", _something_remains),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "break_it"), _BROKEN, ids=[break_it.__name__ for _, break_it in _BROKEN])
def test_a_broken_promise_is_found_and_told_apart(kind: str, break_it: Callable[[Case], None]) -> None:
    case = Case()
    assert case.found() == set()
    break_it(case)
    assert case.found() == {kind}
    assert any(kind.upper() in line for line in report.details(case.facts, check.violations(case.facts)))
    assert report.summary(case.facts, check.violations(case.facts))["violations"][kind] >= 1


def test_each_kind_of_violation_has_been_seen() -> None:
    assert {kind for kind, _ in _BROKEN} == set(check.KINDS)
