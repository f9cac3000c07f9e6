"""Connections of web processes: what their pool does when the server has ended them."""

import threading
from collections.abc import Iterator

import pytest
from django.db import connection

from tests.factories import at_once, observer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def resting() -> Iterator[set[int]]:
    """Four connections that rest in the pool, by their pids."""
    together = threading.Barrier(4, timeout=30)

    def ask() -> int:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                together.wait()
                return int(cursor.fetchone()[0])
        finally:
            connection.close()

    connection.close()
    pids = set(at_once(*[ask] * 4))
    assert len(pids) == 4
    yield pids
    connection.close()


def pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_one_that_rested_is_used_again(resting: set[int]) -> None:
    with observer() as other:
        there = other.execute("SELECT array_agg(pid) FROM pg_stat_activity").fetchone()[0]
    assert pid() in there


def test_after_a_restart_of_the_server_the_first_request_is_served(resting: set[int]) -> None:
    with observer() as other:
        other.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [list(resting)])
    assert pid() not in resting
    # The others are not tried one by one by the next.
    connection.close()
    assert pid() not in resting
    assert not resting.intersection(at_once(*[once] * 4))


def once() -> int:
    try:
        return pid()
    finally:
        connection.close()
