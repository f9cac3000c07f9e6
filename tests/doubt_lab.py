"""Messages that their policy sends again, and outcomes for them."""

import asyncio

from sessions_app.models import Message, OnUncertain, Session, Status
from sessions_app.services import batches, messages, sessions
from sessions_app.worker.outcomes import Settlement, accepted, refused
from tests.dispatch_lab import ACTOR, LabWorker, in_thread, workers


def resending(*texts: str, **options: object) -> tuple[Session, list[Message]]:
    """Messages of a session that sends again what nobody knows the outcome of; as a batch, so that it can be one."""
    session, _ = sessions.create(name="s", actor=ACTOR, on_uncertain=OnUncertain.RESEND, **options)
    drafts = [messages.Draft(to="+51930246633", text=text) for text in texts]
    batches.submit(session, drafts, rejected=0, actor=ACTOR)
    return session, list(Message.objects.order_by("seq"))


async def settle_next(worker: LabWorker, error: BaseException | None, *, late: bool = False) -> Settlement:
    """Fence the head of the line, whatever it waits for, and settle it."""
    await in_thread(Message.objects.filter(status=Status.QUEUED).update, next_attempt_at=None)
    flight = await worker.fence_one()
    outcome = refused(flight, error) if error else accepted(flight, "id")
    if not late:
        await worker.settle(outcome)
    return outcome


def settle(*errors: BaseException | None) -> None:
    """Fence and settle as often as there are outcomes."""

    async def act() -> None:
        async with workers(1) as (worker,):
            for error in errors:
                await settle_next(worker, error)

    asyncio.run(act())
