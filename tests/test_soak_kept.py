"""The soak's count takes nothing for a broken promise that was kept."""

import pytest

from tests.soak import check, report
from tests.soak.facts import NOT_CONNECTED, Answer, Attempt
from tests.soak_lab import Case, cancelled_by_nobody, expired_without_an_end, no_row, overtaken, refused


def test_what_was_resent_by_policy_may_arrive_twice_and_counts_from_its_first_hand_over() -> None:
    case = Case(policy="resend")
    case.entry("a").answer = Answer.UNCLEAR
    case.arrives("a", 105.0)
    case.row("a", resends=1)
    case.fenced("a", (99.9, "uncertain"), (104.9, "sent"))
    assert case.found() == set()
    case.arrives("a", 106.0)
    case.fenced("a", (99.9, "uncertain"), (104.9, "uncertain"), (105.9, "sent"))
    assert case.found() == {"twice"}


def test_what_a_person_had_sent_again_may_arrive_twice() -> None:
    case = Case()
    case.arrives("a", 105.0)
    case.row("a", resends=1)
    case.fenced("a", (99.9, "uncertain"), (104.9, "sent"))
    assert case.found() == {"twice"}
    case.facts.resent_by_person.add("aaaaaaaa")
    assert case.found() == set()


def test_what_never_arrived_before_it_was_given_up_may_come_after_those_behind_it() -> None:
    case = Case(policy="resend")
    case.entry("a").arrived_at, case.entry("a").ended_at = 105.0, 105.1
    case.row("a", resends=1)
    case.fenced("a", (99.9, "uncertain"), (104.9, "sent"))
    assert case.found() == set()


def test_what_was_resent_does_not_count_as_overtaken_by_what_went_after_its_first_hand_over() -> None:
    case = Case(policy="resend")
    case.entry("b").answer = Answer.UNCLEAR
    case.arrives("b", 105.0)
    case.row("b", resends=1)
    case.fenced("b", (100.9, "uncertain"), (104.9, "sent"))
    case.facts.promises[1].accepted_at = None
    assert case.found() == set()
    # But its first came after that of c.
    case.entry("b").arrived_at, case.entry("b").ended_at = 103.0, 103.1
    case.fenced("b", (102.9, "uncertain"), (104.9, "sent"))
    assert case.found() == {"order"}


def test_what_a_person_tried_again_may_come_after_those_behind_it() -> None:
    case = Case()
    case.entry("a").answer, case.entry("a").accepted = Answer.REFUSED, False
    case.arrives("a", 105.0)
    case.fenced("a", (99.9, "failed"), (104.9, "sent"))
    case.facts.retried_by_person.add("aaaaaaaa")
    assert case.found() == set()


def test_a_flight_whose_time_is_over_is_no_flight() -> None:
    case = Case("ab")
    case.entry("a").ended_at = None
    case.entry("b").arrived_at, case.entry("b").ended_at = 110.0, 110.1
    case.fenced("b", (109.9, "sent"))
    assert case.found() == set()


def test_the_time_of_an_attempt_is_over_a_moment_sooner_by_the_clock_of_its_worker() -> None:
    case = Case("ab")
    case.facts.send_seconds = 1.12
    case.entry("a").ended_at = None
    assert case.found() == set()


def test_an_answer_and_the_next_hand_over_may_come_in_one_moment() -> None:
    case = Case("ab")
    case.entry("a").ended_at = case.entry("b").arrived_at
    assert case.found() == set()


@pytest.mark.parametrize("said", ["400", "429"])
def test_what_the_engine_refused_in_its_last_attempt_may_fail(said: str) -> None:
    case = Case()
    refused(case, said)
    assert case.found() == set()


def test_what_a_person_gave_up_may_fail_though_the_engine_never_refused_it() -> None:
    case = Case()
    case.drop("b")
    case.fenced("b", (100.9, "uncertain"))
    case.row("b", status="failed", told=frozenset({"message.resolved"}))
    assert case.found() == {"uncaused"}
    case.facts.given_up_by_person.add("bbbbbbbb")
    assert case.found() == set()


def test_what_a_client_asked_for_may_be_cancelled() -> None:
    case = Case()
    cancelled_by_nobody(case)
    case.facts.cancelled_by_client.add("bbbbbbbb")
    assert case.found() == set()


def test_what_had_an_end_may_expire_once_that_has_passed() -> None:
    case = Case()
    expired_without_an_end(case)
    case.row("b", expires_at=99.0)
    assert case.found() == set()


def test_what_expired_or_was_cancelled_or_refused_later_is_uncertain_if_an_earlier_attempt_was() -> None:
    case = Case(policy="resend")
    case.fenced("b", (100.9, "uncertain"), (101.4, "failed"))
    case.row("b", status="uncertain", told=frozenset({"message.uncertain"}), resends=1)
    assert case.found() == set()


def test_an_attempt_need_not_have_arrived() -> None:
    case = Case()
    case.fenced("b", (100.5, "returned"), (100.7, "held"), (100.9, "sent"), (101.4, "returned"))
    assert case.found() == set()


@pytest.mark.parametrize("what", ["nothing was accepted", "nothing was handed over", "took effect"])
def test_a_soak_in_which_nothing_happened_has_shown_nothing(what: str) -> None:
    case = Case()
    case.facts.monkey_at, case.facts.effects = (99.0, 200.0), 1
    assert check.missing(case.facts) == []
    assert report.verdict(True, [], "again") == (0, "every promise was kept")
    match what:
        case "nothing was accepted":
            for promise in case.facts.promises:
                promise.accepted_at = None
        case "nothing was handed over":
            case.facts.monkey_at = (103.0, 200.0)
        case _:
            case.facts.effects = 0
    (line,) = check.missing(case.facts)
    assert what in line
    code, said = report.verdict(True, [line], "again")
    assert code == 2 and line in said
    # What was broken goes before what was not tried.
    assert report.verdict(False, [line], "again")[0] == 1


def test_high_priority_goes_before_only_once_it_was_accepted() -> None:
    case = Case()
    case.row("c", priority=0)
    case.facts.promises[2].accepted_at = 101.5
    assert case.found() == set()


def test_a_pace_counts_from_the_last_hand_over_that_met_a_link() -> None:
    case = Case()
    case.facts.paces["s"] = 0.95
    assert case.found() == set()
    down = case.arrives("c", 101.96, Answer.REFUSED, said=NOT_CONNECTED, ended_at=101.97)
    case.fenced("c", (101.95, "held"), (101.99, "sent"))
    assert case.found() == set()
    # Any other refusal has troubled the engine.
    down.said = "429"
    assert case.found() == {"pace"}
    # And without a link, too, it does not come before its time.
    down.said, down.arrived_at, down.ended_at = NOT_CONNECTED, 101.5, 101.6
    case.fenced("c", (101.45, "held"), (101.99, "sent"))
    assert case.found() == {"pace"}


def test_a_pace_per_recipient_counts_the_hand_overs_to_each_by_themselves() -> None:
    case = Case()
    case.facts.recipient_paces["s"] = 2.5
    assert case.found() == {"pace"}
    for text in "abc":
        case.entry(text).chat = text
    assert case.found() == set()


def test_a_cap_counts_from_the_beginning_of_its_window_and_not_what_was_put_back() -> None:
    case = Case()
    case.finished(100.1, 101.1, 102.1)
    case.facts.counted["s"] = (101.1, 2)
    assert case.found() == set()
    case.facts.counted["s"] = (100.1, 2)
    assert case.found() == {"cap"}
    case.row("b", attempts=(Attempt(100.8, "returned", 7, 100.85), *case.facts.rows[1].attempts))
    case.facts.counted["s"] = (100.1, 3)
    assert case.found() == set()


def test_what_was_scheduled_is_overtaken_until_it_comes_due() -> None:
    case = Case()
    overtaken(case)
    case.row("b", is_scheduled=True, queued_at=102.5)
    assert case.found() == set()


def test_what_no_client_knows_of_may_be_there_or_not() -> None:
    case = Case()
    case.facts.promises[1].accepted_at = None
    assert case.found() == set()
    case.drop("b")
    no_row(case)
    assert case.found() == set()
