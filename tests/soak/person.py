"""The person at the desk: resolves what is uncertain by asking its recipient, retries, pauses and resumes."""

import hashlib
import random
import threading
import time
from collections import Counter

from tests.soak.client import Lost, Reply, Web
from tests.soak.engine import Engine
from tests.soak.facts import Pause
from tests.soak.hand import Hand

_LOOK_SECONDS = 1.0
_PAUSED_AT_ONCE = 4
_LAST_ROUND_SECONDS = 60.0


class Person:
    """Works in a thread of its own until told to stop."""

    def __init__(self, web: Web, engine: Engine, policies: dict[str, str], seed: int) -> None:
        self.resent: set[str] = set()
        self.given_up: set[str] = set()
        self.retried: set[str] = set()
        self.pauses: list[Pause] = []
        self.counts: Counter[str] = Counter()
        self._web = web
        self._engine = engine
        self._policies = policies
        self._chance = random.Random(f"{seed} person")
        # Each session is paused once: a request that nobody answered may have its effect at any time.
        self._to_pause = self._chance.sample(sorted(policies), len(policies))
        # Since when, 0 where nobody knows, and until when.
        self._paused: dict[str, tuple[float, float]] = {}
        self._left: set[str] = set()
        self._may_pause = True
        self._stopping = threading.Event()
        self._thread = Hand("person", self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def pause_no_more(self) -> None:
        """From now on only resume and resolve."""
        self._may_pause = False

    def stop(self) -> list[str]:
        """Go home; return what went wrong."""
        self._stopping.set()
        self._thread.join(_LAST_ROUND_SECONDS)
        stuck = [f"the person does not go home for {_LAST_ROUND_SECONDS:g} s"] if self._thread.is_alive() else []
        return self._thread.wrong + stuck

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self._resolve()
            self._retry()
            self._resume()
            if self._may_pause and len(self._paused) < _PAUSED_AT_ONCE and self._to_pause:
                self._pause(self._to_pause.pop())

    def _resolve(self) -> None:
        for message in self._messages("uncertain"):
            name, pk, text = message["session"], message["id"], message["text"]
            # Some wait until the end, where nothing else waits for them.
            if self._policies[name] != "hold_session" and not _is_one_of(pk, 50):
                continue
            if self._engine.has_accepted(text):
                outcome = "sent"
            else:
                outcome = "failed" if _is_one_of(text, 30) else "resend"
                (self.given_up if outcome == "failed" else self.resent).add(pk)
            if self._ask(f"/messages/{pk}/resolve", {"as": outcome}) is not None:
                self.counts[f"resolved as {outcome}"] += 1

    def _retry(self) -> None:
        for message in self._messages("failed"):
            pk = message["id"]
            if pk not in self._left and pk not in self.given_up and _is_one_of(pk, 50):
                self._left.add(pk)
                self.retried.add(pk)
                if self._ask(f"/messages/{pk}/retry") is not None:
                    self.counts["retried"] += 1

    def _pause(self, name: str) -> None:
        self._paused[name] = (0.0, time.time() + self._chance.uniform(2, 10))
        if (reply := self._ask(f"/sessions/{name}/pause")) is not None and reply.status == 202:
            self._paused[name] = (time.time(), self._paused[name][1])
            self.counts["paused"] += 1

    def _resume(self) -> None:
        for name, (since, until) in list(self._paused.items()):
            if self._may_pause and time.time() < until:
                continue
            asked = time.time()
            # Asked before: it may have gone on since.
            if since:
                self.pauses.append(Pause(name, since, asked))
                self._paused[name] = (0.0, until)
            if (reply := self._ask(f"/sessions/{name}/resume")) is not None and reply.status == 202:
                del self._paused[name]

    def _messages(self, status: str) -> list[dict[str, str]]:
        reply = self._ask(f"/messages?status={status}&limit=1000", method="GET")
        return reply.body["items"] if reply is not None and reply.status == 200 else []

    def _ask(self, path: str, body: object = None, method: str = "POST") -> Reply | None:
        try:
            return self._web.call(method, path, body)
        except Lost:
            return None


def _is_one_of(name: str, percent: int) -> bool:
    """Whether this one is among so many of a hundred, whenever it is asked."""
    return hashlib.sha256(name.encode()).digest()[0] * 100 < percent * 256
