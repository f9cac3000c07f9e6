"""Clients: they hand messages in, ask again with the same key when no answer comes, and now and then cancel."""

import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tests.soak.client import Lost, Reply, Web
from tests.soak.facts import Promise
from tests.soak.hand import Hand

_CLIENTS = 8
_PAUSE_SECONDS = 0.3
_BATCH = (2, 30)
# Few, so that whoever has to wait per recipient has to.
_PHONES = [f"+5193024{number:04d}" for number in range(8)]
# What one hand-in is, by weight.
_KINDS = {"single": 70, "high": 7, "scheduled": 7, "expiring": 4, "batch": 12, "keyless": 4, "cancel": 5}


class Traffic:
    """Each session belongs to one client, which waits for an answer before it hands in the next."""

    def __init__(self, web: Web, sessions: list[str], seed: int) -> None:
        self.promises: list[Promise] = []
        self.counts: Counter[str] = Counter()
        # Answers that no client can understand.
        self.strange: Counter[str] = Counter()
        # Messages by id that were to be cancelled: also where no answer came, it may have been heard.
        self.cancelled: set[str] = set()
        self._web = web
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._threads = [
            Hand(f"client {at}", partial(self._run, sessions[at::_CLIENTS], random.Random(f"{seed} client {at}")))
            for at in range(min(_CLIENTS, len(sessions)))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, deadline_seconds: float) -> list[str]:
        """Hand in one last message for each session; wait for the last answers. Return what went wrong."""
        self._stopping.set()
        end = time.monotonic() + deadline_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        waiting = [thread.name for thread in self._threads if thread.is_alive()]
        self._giving_up.set()
        strange = [f"answered {count} times {what}" for what, count in self.strange.items()]
        died = [line for thread in self._threads for line in thread.wrong]
        return strange + died + [f"{name} got no answer for {deadline_seconds:g} s" for name in waiting]

    def _run(self, sessions: list[str], chance: random.Random) -> None:
        known: list[str] = []
        while not self._stopping.wait(chance.expovariate(1 / _PAUSE_SECONDS)):
            (kind,) = chance.choices(list(_KINDS), list(_KINDS.values()))
            if kind == "cancel":
                self._cancel(known)
            else:
                # A few sessions have much to send, so that something waits in their lines.
                place = int(len(sessions) * chance.random() ** 2)
                self._hand_in(chance, sessions[place], kind, known)
        # Whatever has happened to a session, it has to send once more.
        for session in sessions:
            self._hand_in(chance, session, "single", known)

    def _hand_in(self, chance: random.Random, session: str, kind: str, known: list[str]) -> None:
        count = chance.randint(*_BATCH) if kind == "batch" else 1
        promises = [self._promise(session) for _ in range(count)]
        bodies = [_body(chance, promise.text, kind) for promise in promises]
        path = f"/sessions/{session}/messages" + ("/batch" if kind == "batch" else "")
        body = {"messages": bodies} if kind == "batch" else bodies[0]
        if kind == "keyless":
            reply = self._ask_once(path, body)
        else:
            reply = self._ask(path, body, str(uuid.UUID(int=chance.getrandbits(128))), chance)
        if reply is None:
            return
        if reply.status == 422:
            # It expired before anybody took it: there is no promise.
            self.promises.remove(promises[0])
            self.counts["expired before"] += 1
            return
        if kind == "batch" and reply.body["accepted"] != count:
            self.strange[f"with {reply.body['accepted']} of {count} messages of a batch"] += 1
        now = time.time()
        for promise in promises:
            promise.accepted_at = now
        self.counts["accepted"] += count
        if kind != "batch":
            known.append(reply.body["id"])
            del known[:-20]

    def _promise(self, session: str) -> Promise:
        self._numbers[session] += 1
        number = self._numbers[session]
        made = Promise(session, f"{session}-{number:05d}", number)
        # Known before it is handed in: it may be sent before its answer is read.
        self.promises.append(made)
        return made

    def _ask_once(self, path: str, body: Any) -> Reply | None:
        try:
            reply = self._web.call("POST", path, body)
        except Lost:
            self.counts["never known"] += 1
            return None
        self._look_at(reply)
        return reply if reply.status == 202 else None

    def _ask(self, path: str, body: Any, key: str, chance: random.Random) -> Reply | None:
        hang_up = chance.uniform(0, 0.05) if chance.random() < 0.04 else None
        wait = 0.1
        while not self._giving_up.is_set():
            try:
                reply = self._web.call("POST", path, body, once=key, hang_up_after=hang_up)
                if reply.status == 202 or (reply.status == 422 and reply.body["errors"][0]["field"] == "expires_at"):
                    return reply
                self._look_at(reply)
            except Lost:
                self.counts["asked again"] += 1
            hang_up = None
            self._giving_up.wait(wait)
            wait = min(2 * wait, 1.0)
        return None

    def _cancel(self, known: list[str]) -> None:
        if not known:
            return
        pk = known.pop()
        self.cancelled.add(pk)
        try:
            reply = self._web.call("POST", f"/messages/{pk}/cancel")
        except Lost:
            return
        self.counts["cancelled"] += reply.status == 200
        self._look_at(reply)

    def _look_at(self, reply: Reply) -> None:
        """Stores may be away (503), a key's first request may still run, and a message be on its way (409)."""
        if reply.status not in (200, 202, 409, 503):
            self.strange[f"with {reply.status}: {reply.body}"] += 1
        self.counts["answered 503"] += reply.status == 503


def _body(chance: random.Random, text: str, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = {"to": chance.choice(_PHONES), "text": text}
    now = datetime.now(UTC)
    if kind == "high":
        body["priority"] = "high"
    elif kind == "scheduled":
        body["scheduled_at"] = (now + timedelta(seconds=chance.uniform(2, 30))).isoformat()
    elif kind == "expiring":
        body["expires_at"] = (now + timedelta(seconds=chance.uniform(2, 20))).isoformat()
    return body
