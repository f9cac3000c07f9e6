"""The soak's count finds each kind of broken promise, and none where all were kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.soak import check, report
from tests.soak.facts import NOT_CONNECTED, Answer, Attempt, Entry, Facts, Pause, Promise, Row

_SEND_SECONDS = 8.0


class Case:
    """One session that sends a, b, c and so on, each a second after the one before, answered after a tenth."""

    def __init__(self, texts: str = "abc", policy: str = "hold") -> None:
        self.facts = Facts(_SEND_SECONDS, policies={"s": policy})
        for at, text in enumerate(texts):
            sent_at = 100.0 + at
            self.facts.promises.append(Promise("s", text, at, accepted_at=10.0 + at))
            self.arrives(text, sent_at)
            tried = (Attempt(sent_at - 0.1, "sent", at),)
            self.facts.rows.append(Row(text * 8, "s", text, "sent", at, queued_at=10.0 + at, attempts=tried))

    def arrives(self, text: str, at: float, answer: Answer = Answer.ACCEPTED, **changes: Any) -> Entry:
        """Another hand-over."""
        given = {"accepted": answer == Answer.ACCEPTED, "ended_at": at + 0.1, "answer": answer} | changes
        self.facts.entries.append(Entry("s", text, at, **given))
        return self.facts.entries[-1]

    def entry(self, text: str) -> Entry:
        """The first hand-over of a message."""
        return next(entry for entry in self.facts.entries if entry.text == text)

    def row(self, text: str, **changes: Any) -> None:
        """Change a row."""
        self.facts.rows = [replace(row, **changes) if row.text == text else row for row in self.facts.rows]

    def fenced(self, text: str, *attempts: tuple[float, str]) -> None:
        """Give a message these attempts, by when each was fenced and what came of it."""
        self.row(text, attempts=tuple(Attempt(at, outcome, token) for token, (at, outcome) in enumerate(attempts)))

    def finished(self, *times: float) -> None:
        """Give the only attempt of each message its end."""
        for row, at in zip(self.facts.rows, times, strict=True):
            self.row(row.text, attempts=(replace(row.attempts[0], finished_at=at),))

    def drop(self, text: str) -> None:
        """Have the engine never hear of a message."""
        self.facts.entries = [entry for entry in self.facts.entries if entry.text != text]

    def cancelled(self, text: str) -> None:
        """Have a message cancelled after an attempt that was refused for now."""
        self.fenced(text, (100.9, "retry"))
        self.row(text, status="cancelled")

    def found(self) -> set[str]:
        """The kinds of violation."""
        return {violation.kind for violation in check.violations(self.facts)}


def _no_row(case: Case) -> None:
    case.drop("b")
    case.facts.rows = [row for row in case.facts.rows if row.text != "b"]


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


def _cancelled_by_nobody(case: Case) -> None:
    case.drop("b")
    case.cancelled("b")
    case.facts.cancelled_by_client.add("cccccccc")


def _expired_without_an_end(case: Case) -> None:
    case.drop("b")
    case.row("b", status="expired", expired_at=100.0, attempts=())


def _expired_before_its_end(case: Case) -> None:
    _expired_without_an_end(case)
    case.row("b", expires_at=120.0)


def _failed_without_a_refusal(case: Case) -> None:
    case.drop("b")
    case.fenced("b", (100.9, "failed"))
    case.row("b", status="failed", told=frozenset({"message.failed"}))


def _failed_for_want_of_a_link(case: Case) -> None:
    _refused(case, NOT_CONNECTED)


def _failed_by_a_refusal_of_an_earlier_attempt(case: Case) -> None:
    _refused(case, "429")
    case.fenced("b", (100.9, "retry"), (101.4, "failed"))


def _failed_though_it_was_refused_for_now(case: Case) -> None:
    _refused(case, "429")
    case.fenced("b", (100.9, "retry"))


def _uncertain_though_all_is_known(case: Case) -> None:
    case.row("b", status="uncertain", told=frozenset({"message.uncertain"}))


def _refused(case: Case, said: str) -> None:
    case.entry("b").answer, case.entry("b").accepted, case.entry("b").said = Answer.REFUSED, False, said
    case.fenced("b", (100.9, "failed"))
    case.row("b", status="failed", told=frozenset({"message.failed"}))


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


def _overtaken(case: Case) -> None:
    case.entry("b").arrived_at, case.entry("b").ended_at = 103.0, 103.1
    case.fenced("b", (102.9, "sent"))


def _overtaken_between_two_tries(case: Case) -> None:
    case.entry("b").answer, case.entry("b").accepted = Answer.REFUSED, False
    case.arrives("b", 103.0)
    case.fenced("b", (100.9, "retry"), (102.9, "sent"))


def _overtaken_before_its_client_read_the_answer(case: Case) -> None:
    _overtaken(case)
    case.facts.promises[1].accepted_at = 104.0


def _overtaken_though_its_client_never_read_an_answer(case: Case) -> None:
    _overtaken(case)
    case.facts.promises[1].accepted_at = None


def _high_priority_overtaken(case: Case) -> None:
    case.row("c", priority=0)


def _high_priority_overtaken_by_a_later_one_before_its_client_read_the_answer(case: Case) -> None:
    _overtaken_before_its_client_read_the_answer(case)
    case.row("b", priority=0)


def _scheduled_overtaken_after_it_came_due(case: Case) -> None:
    _overtaken(case)
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
    _refused(case, "400")
    case.row("b", told=frozenset())


def _something_remains(case: Case) -> None:
    case.facts.remains.append("3 flights of nobody")


_BROKEN: list[tuple[str, Callable[[Case], None]]] = [
    ("lost", _no_row), ("lost", _still_queued), ("lost", _sent_but_never_taken),
    ("doubled", _two_rows),
    ("twice", _sent_again), ("twice", _sent_again_after_an_unclear_answer), ("twice", _resent_though_the_session_holds),
    ("twice", _sent_again_by_policy_though_its_outcome_was_known),
    ("twice", _sent_again_with_the_leave_to_resend_an_attempt_that_never_arrived),
    ("untrue", _called_failed_though_taken), ("untrue", _called_cancelled_though_taken),
    ("untrue", _called_expired_though_taken_before_its_resend),
    ("uncaused", _cancelled_by_nobody), ("uncaused", _expired_without_an_end), ("uncaused", _expired_before_its_end),
    ("uncaused", _failed_without_a_refusal), ("uncaused", _failed_for_want_of_a_link),
    ("uncaused", _failed_by_a_refusal_of_an_earlier_attempt), ("uncaused", _failed_though_it_was_refused_for_now),
    ("uncaused", _uncertain_though_all_is_known),
    ("unpromised", _never_handed_in), ("unpromised", _through_another_session),
    ("unfenced", _without_an_attempt), ("unfenced", _before_its_attempt), ("unfenced", _twice_in_one_attempt),
    ("unfenced", _in_an_attempt_that_was_put_back), ("unfenced", _of_no_row),
    ("overlap", _before_the_answer), ("overlap", _while_the_one_before_hangs),
    ("overlap", _before_the_time_of_a_longer_attempt_is_over),
    ("order", _overtaken), ("order", _overtaken_between_two_tries), ("order", _high_priority_overtaken),
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
    _refused(case, said)
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
    _cancelled_by_nobody(case)
    case.facts.cancelled_by_client.add("bbbbbbbb")
    assert case.found() == set()


def test_what_had_an_end_may_expire_once_that_has_passed() -> None:
    case = Case()
    _expired_without_an_end(case)
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
    _overtaken(case)
    case.row("b", is_scheduled=True, queued_at=102.5)
    assert case.found() == set()


def test_what_no_client_knows_of_may_be_there_or_not() -> None:
    case = Case()
    case.facts.promises[1].accepted_at = None
    assert case.found() == set()
    case.drop("b")
    _no_row(case)
    assert case.found() == set()
