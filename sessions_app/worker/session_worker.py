"""The rq worker class of waqueue: what `manage.py rqworker` starts, and what rq's own tools list.

It registers, beats and obeys like any rq worker; what it serves are not the queues it was given but all sessions, also
those that did not exist when it started.
"""

import asyncio
import contextlib
import logging
import signal
import uuid
from typing import Any

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError
from redis.exceptions import RedisError
from rq import Worker
from rq.command import handle_command, parse_payload
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from sessions_app.queues import keys
from sessions_app.queues.connection import deployment_id, worker_client
from sessions_app.transports import registry
from sessions_app.worker import chores, clock
from sessions_app.worker.backoff import Backoff
from sessions_app.worker.dispatcher import Dispatcher
from sessions_app.worker.thread import Thread
from sessions_app.worker.upkeep import Upkeep
from waqueue import serving
from waqueue.garbage import collect_seldom

log = logging.getLogger(__name__)

_RQ_HEARTBEAT_SECONDS = 10.0
# Signals that come twice within a second were sent by two senders at once and mean one thing.
_SAME_SIGNAL_SECONDS = 1.0
# How long a stopping worker waits for a fence that is under way, and for each connection that is to be closed.
_FENCE_SECONDS = 5.0
_CLOSE_SECONDS = 3.0


class SessionWorker(Worker):  # type: ignore[misc]
    """Serves every session's queue in one process: in order, one message at a time each, thousands at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Whatever the command line says: a pickle in Redis must never be loaded.
        kwargs["serializer"] = JSONSerializer
        super().__init__(*args, **kwargs)
        self._stop_signals = 0
        self._last_signal_at = 0.0

    def _set_ip_address(self, connection: Any) -> None:
        """As rq does, but a Redis that is down only delays the work, not the start."""
        try:
            super()._set_ip_address(connection)
        except RedisError:
            self.ip_address = "unknown"

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = "",
        log_format: str = "",
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: Any = None,
    ) -> bool:
        """Serve until told to stop; return whether anything was sent.

        `burst` ends when nothing is due, `max_jobs` after that many messages, `max_idle_time` after so many seconds
        without a due session.
        """
        serving.declare()
        collect_seldom()
        return asyncio.run(self._work(burst=burst, max_jobs=max_jobs, max_idle_time=max_idle_time))

    async def _work(self, *, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> bool:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        dispatcher: Dispatcher | None = None
        hurry = asyncio.Event()

        def on_signal() -> None:
            now = clock.now()
            if self._stop_signals and now - self._last_signal_at < _SAME_SIGNAL_SECONDS:
                return
            self._last_signal_at = now
            self._stop_signals += 1
            if self._stop_signals == 1:
                log.info("worker %s stops: it claims nothing more and waits for what is in flight", self.name)
                stopping.set()
                if dispatcher is not None:
                    dispatcher.stop()
            else:
                log.warning("worker %s stops now: what is in flight becomes uncertain", self.name)
                hurry.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        deployment = await self._deployment(stopping)
        if deployment is None:
            return False
        dispatcher = Dispatcher(worker=uuid.uuid4(), deployment=deployment, concurrency=settings.WAQUEUE_CONCURRENCY)
        for name in set(settings.WAQUEUE_TRANSPORT_CONCURRENCY) - set(registry.names()):
            log.warning("WAQUEUE_TRANSPORT_CONCURRENCY names %s: there is no such transport", name)
        if stopping.is_set():
            dispatcher.stop()
        upkeep = Upkeep(dispatcher, self.name)
        await self._register(upkeep, dispatcher)
        log.info("worker %s serves all sessions, up to %d messages at once", self.name, dispatcher.concurrency)
        background = [
            asyncio.create_task(run, name=name)
            for name, run in (
                ("settle", dispatcher.landing.settle_forever()),
                ("give back", dispatcher.landing.give_back_forever()),
                ("upkeep", upkeep.run()),
                ("listen", self._listen(dispatcher)),
                ("rq heartbeat", self._beat_for_rq(dispatcher)),
                ("limits", self._watch_limits(dispatcher, max_jobs, max_idle_time)),
            )
        ]
        if not burst:
            background.append(asyncio.create_task(chores.run_forever(dispatcher.stopping), name="chores"))
        claiming = asyncio.create_task(dispatcher.claim_forever(burst=burst))
        hurrying = asyncio.create_task(hurry.wait())
        # A part that ends by itself has a fault: better to stop in order than to look alive.
        await asyncio.wait([claiming, hurrying, *background], return_when=asyncio.FIRST_COMPLETED)
        dispatcher.stop()
        # A fence that is under way is waited for: what it commits is in flight.
        await asyncio.wait([claiming, hurrying], timeout=_FENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        claiming.cancel()
        await asyncio.wait([claiming], timeout=_CLOSE_SECONDS)
        failed = [task for task in [claiming, *background] if _failure(task)]
        await self._drain(dispatcher, hurrying)
        for task in [hurrying, *background]:
            task.cancel()
        await asyncio.wait([hurrying, *background], timeout=_CLOSE_SECONDS)
        for closing in (upkeep.stop(), dispatcher.close(), asyncio.to_thread(self._say_goodbye_to_rq)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await closing
        log.info("worker %s stopped after %d messages", self.name, dispatcher.landing.settled_count)
        for task in failed:
            raise _failure(task)  # type: ignore[misc]
        return bool(dispatcher.landing.settled_count)

    async def _deployment(self, stopping: asyncio.Event) -> str | None:
        """Which database this is; waits until it can be asked. None when told to stop meanwhile."""
        backoff = Backoff("starting", stopping)
        thread = Thread("deployment")
        try:
            while not stopping.is_set():
                try:
                    return await thread.run(deployment_id)
                except DatabaseError as error:
                    await backoff.wait(error)
            return None
        finally:
            thread.close()

    async def _register(self, upkeep: Upkeep, dispatcher: Dispatcher) -> None:
        backoff = Backoff("registering", dispatcher.stopping)
        while not dispatcher.stopping.is_set():
            try:
                await dispatcher.open()
                return await upkeep.register()
            except psycopg.Error as error:
                await backoff.wait(error)

    async def _drain(self, dispatcher: Dispatcher, hurrying: "asyncio.Task[Any]") -> None:
        """Let what is in flight come back and be written, within the deadline; a second signal ends the wait."""
        seconds = settings.WAQUEUE_DRAIN_SECONDS
        draining = asyncio.create_task(dispatcher.drain(seconds))
        await asyncio.wait([draining, hurrying], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await dispatcher.drain(0)
        limit = clock.now() + (1 if hurrying.done() else max(5.0, seconds / 4))
        while not dispatcher.is_idle and clock.now() < limit:
            await asyncio.sleep(0.01)

    async def _watch_limits(self, dispatcher: Dispatcher, max_jobs: int | None, max_idle_time: int | None) -> None:
        while True:
            await asyncio.sleep(0.2)
            if max_jobs is not None and dispatcher.landing.settled_count >= max_jobs:
                return
            if max_idle_time is not None and dispatcher.is_idle:
                if clock.now() - dispatcher.idle_since >= max_idle_time:
                    return
            elif not dispatcher.is_idle:
                dispatcher.idle_since = clock.now()

    async def _listen(self, dispatcher: Dispatcher) -> None:
        """Be woken when a session has come due, and obey rq's commands."""
        while True:
            client = worker_client()
            try:
                async with client.pubsub() as pubsub:
                    await pubsub.subscribe(keys.WAKE, self.pubsub_channel_name)
                    # Whatever was published before the subscription went unheard.
                    dispatcher.wake()
                    while True:
                        heard = await pubsub.get_message(ignore_subscribe_messages=True, timeout=30)
                        if heard is None:
                            continue
                        if heard["channel"].decode() == keys.WAKE:
                            if heard["data"] != str(dispatcher.worker).encode():
                                dispatcher.wake()
                        else:
                            self._obey(heard)
            except (RedisError, OSError):
                await asyncio.sleep(0.5)
            finally:
                with contextlib.suppress(Exception):
                    await client.aclose()

    def _obey(self, message: Any) -> None:
        try:
            handle_command(self, parse_payload(message))
        except Exception:  # whoever can publish can publish anything
            log.warning("worker %s got a command that it does not understand", self.name)

    async def _beat_for_rq(self, dispatcher: Dispatcher) -> None:
        """Be listed by rq's tools, again also after Redis was wiped."""
        while True:
            with contextlib.suppress(RedisError, ValueError):
                await asyncio.to_thread(self._show_to_rq, dispatcher)
            await asyncio.sleep(_RQ_HEARTBEAT_SECONDS)

    def _show_to_rq(self, dispatcher: Dispatcher) -> None:
        if not self.connection.exists(self.key):
            self.register_birth()
            # `rq info` shows the workers of the queues that it knows, and knows a queue only once it held something.
            self.connection.sadd(keys.RQ_QUEUES, *(queue.key for queue in self.queues))
        if dispatcher.is_suspended:
            state = WorkerStatus.SUSPENDED
        else:
            state = WorkerStatus.BUSY if dispatcher.flights else WorkerStatus.IDLE
        self.set_state(state)
        self.heartbeat()

    def _say_goodbye_to_rq(self) -> None:
        with contextlib.suppress(RedisError):
            self.register_death()


def _failure(task: "asyncio.Task[Any]") -> BaseException | None:
    """What ended a task that should not have ended; None for one that runs, was cancelled or ended in order."""
    return None if not task.done() or task.cancelled() else task.exception()
