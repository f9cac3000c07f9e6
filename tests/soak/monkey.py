"""The monkey: does what the plan says, and says what it did."""

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence

import psycopg
import redis
import rq
from rq.serializers import JSONSerializer

from tests.soak.engine import Engine
from tests.soak.plan import Act
from tests.soak.stage import Stage

# What a session's queue holds, beside its id, is content that can be read without a row.
_JOB = "sessions_app.jobs.send_message"
_LOSING = ("redis.flush", "redis.empty", "redis.old")


class Monkey:
    """Acts in the main thread: a child's life hangs on the thread that made it."""

    def __init__(self, stage: Stage, engine: Engine, groups: Sequence[list[str]], say: Callable[[str], None]) -> None:
        self._stage = stage
        self._engine = engine
        self._groups = groups
        self._say = say
        self.done = 0
        # How many acts were possible, and from when until when all were done.
        self.effects = 0
        self.at = (0.0, 0.0)
        # What was put into queues of no session, and when; and when Redis last forgot something.
        self.planted: dict[str, float] = {}
        self.forgot_at = 0.0
        redis_proxy, postgres_proxy = stage.redis_proxy, stage.postgres_proxy
        self._acts: dict[str, Callable[[Act], object]] = {
            "worker.kill": lambda act: stage.kill_worker(_target(act)),
            "worker.start": lambda act: stage.start_worker(_target(act)),
            "worker.replace": lambda act: stage.replace_worker(_target(act)),
            "worker.freeze": lambda act: stage.freeze(_target(act)),
            "worker.thaw": lambda act: stage.thaw(_target(act)),
            "web.kill": lambda _: stage.kill_web(),
            "web.start": lambda _: stage.start_web(),
            "redis.kill": lambda _: stage.kill_redis(),
            "redis.start": lambda _: stage.start_redis(),
            "redis.flush": lambda _: self._flush(),
            "redis.empty": lambda _: stage.start_empty_redis(),
            "redis.old": lambda _: stage.start_old_redis(),
            "redis.cut": lambda _: redis_proxy.cut(server_hears=True),
            "redis.slow": lambda act: setattr(redis_proxy, "latency_s", act.value),
            "redis.fast": lambda _: setattr(redis_proxy, "latency_s", 0.0),
            "postgres.kill": lambda _: stage.postgres.kill(),
            "postgres.start": lambda _: stage.start_postgres(),
            "postgres.slow": lambda act: setattr(postgres_proxy, "latency_s", act.value),
            "postgres.fast": lambda _: setattr(postgres_proxy, "latency_s", 0.0),
            "postgres.terminate": lambda _: stage.end_database_connections(),
            "postgres.cut": lambda _: postgres_proxy.cut(server_hears=True),
            "reconcile": lambda _: stage.begin_command("reconcile_queues"),
            "orphan": lambda _: self.plant(),
            "engine.disconnect": lambda act: engine.disconnect(groups[_target(act)]),
            "engine.connect": lambda act: engine.connect(groups[_target(act)]),
            "engine.hang": lambda act: engine.hanging.update(groups[_target(act)]),
            "engine.answer": lambda act: engine.hanging.difference_update(groups[_target(act)]),
        }

    @property
    def knows(self) -> frozenset[str]:
        """The names of all acts."""
        return frozenset(self._acts)

    def follow(self, plan: Sequence[Act], seconds: float) -> None:
        """Do each act at its time, or as soon after it as the one before is done; return when the time is over."""
        start, began_at = time.monotonic(), time.time()
        for act in plan:
            time.sleep(max(0.0, start + act.at - time.monotonic()))
            late = time.monotonic() - start - act.at
            self._say(f"{act}{f', {late:.1f} s late' if late > 1 else ''}{self._do(act)}")
            self.done += 1
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        self.at = (began_at, time.time())

    def heal(self) -> None:
        """Undo all that lasts."""
        for group in self._groups:
            self._engine.connect(group)
        self._engine.hanging.clear()
        self._stage.heal()

    def plant(self) -> None:
        """Put a message by hand into the queue of a session that there is not."""
        text = f"orphan-{len(self.planted)}"
        with contextlib.closing(self._stage.redis_client()) as client:
            queue = rq.Queue(f"wa:ghost-{len(self.planted)}", connection=client, serializer=JSONSerializer)
            content = {"to": "+51930246633", "type": "text", "text": text}
            queue.enqueue(_JOB, args=(str(uuid.uuid4()), content), description="planted")
        self.planted[text] = time.time()

    def _do(self, act: Act) -> str:
        if act.name in _LOSING:
            self.forgot_at = time.time()
        try:
            self._acts[act.name](act)
            self.effects += 1
        except (redis.RedisError, psycopg.Error) as error:
            # Somebody else has that store down just now.
            return f": not possible now ({type(error).__name__})"
        finally:
            if act.name in _LOSING:
                self.forgot_at = time.time()
        return ""

    def _flush(self) -> None:
        with contextlib.closing(self._stage.redis_client()) as client:
            client.flushall()


def _target(act: Act) -> int:
    assert act.target is not None, act
    return act.target
