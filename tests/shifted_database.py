"""A PostgreSQL whose clock is wrong: functions of the names by which it is asked for the time, found before its own."""

# Functions that come first in the search path are asked in the place of PostgreSQL's.
_CLOCKS = {"now": "STABLE", "transaction_timestamp": "STABLE", "statement_timestamp": "STABLE", "clock_timestamp": ""}

SEARCH_PATH = "skewed, pg_catalog, public"


def clocks_off_by(seconds: int) -> list[str]:
    """The statements that make a clock that is so far ahead, in a schema `skewed`."""
    return [
        "CREATE SCHEMA skewed",
        *(
            f"CREATE FUNCTION skewed.{name}() RETURNS timestamptz LANGUAGE sql {volatility} "
            f"AS $$ SELECT pg_catalog.{name}() + interval '{seconds} seconds' $$"
            for name, volatility in _CLOCKS.items()
        ),
    ]
