"""A session that goes on: its outcome is written and its next message fenced in one commit, without a way over Redis.

What the fence decides it decides as for any claim; only the claim itself is kept a little longer.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import psycopg

from sessions_app.queues.dispatch import ClaimedSession
from sessions_app.worker import clock, fence, settle
from sessions_app.worker.fence import Fenced
from sessions_app.worker.limits import TransportLimits
from sessions_app.worker.lost_attempts import Handed
from sessions_app.worker.outcomes import Flight, Settlement
from sessions_app.worker.settle import Settled
from sessions_app.worker.store import Store


class Doubted(Protocol):
    """Who knows what the database ought to have."""

    known_token: int

    def arise(self) -> None:
        """PostgreSQL did not answer: it may have fenced, and whoever answers next may be another database."""

    def forget(self, flight: Flight) -> None:
        """The attempt did certainly not arrive."""

    async def put_back(self, store: Store, handed: Mapping[str, Handed]) -> None:
        """Give the database the attempts, by session name, that it has lost."""

    async def resolve_older_database(self) -> None:
        """Find what else a database has lost that has none of this worker's newest attempts."""


class Onward(Protocol):
    """Who decides which sessions may go on, and takes their next flights."""

    worker: uuid.UUID
    limits: TransportLimits
    doubts: Doubted

    def may_go_on(self, flight: Flight) -> bool:
        """Whether the session may go on after this flight, instead of being given back."""

    def take_off(self, fenced: Fenced) -> None:
        """Take what was fenced."""


async def settle_and_fence(
    connection: psycopg.AsyncConnection[Any],
    worker: uuid.UUID,
    settlements: Sequence[Settlement],
    claimed: Sequence[ClaimedSession],
    room: Mapping[str, int],
    known: int,
) -> tuple[list[Settled], Fenced]:
    """Write `settlements`, then decide for `claimed`, in one commit. `room` and `known` are as for a fence.

    Raises psycopg.Error, after which the commit may have happened: the settlements may be written again.
    """
    fenced_at = clock.now()
    # A pipeline is one transaction, without a BEGIN: everything up to its end commits or fails together.
    async with connection.pipeline():
        written = await settle.send(connection, settlements, {session.name for session in claimed})
        looked = await fence.look(connection, worker, claimed, room, known)
    return await settle.read(written, settlements), await fence.read(looked, claimed, fenced_at)
