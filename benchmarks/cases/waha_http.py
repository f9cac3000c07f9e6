"""1,000 sessions of 10 texts to a WAHA-shaped stub in another process, beside a bare aiohttp loop."""

from collections.abc import Callable

from benchmarks import ours
from benchmarks.peers import waha_stub
from benchmarks.posting import post
from benchmarks.report import BenchmarkError, Result, Run
from benchmarks.rounds import alternate, compared
from benchmarks.seed import TEXT
from benchmarks.stores import Stores

_SESSIONS, _CONNECTIONS, _KEY = 1000, 100, "a-key-of-waha"


def run(stores: Stores, *, rounds: int, quick: bool) -> Result:
    """The loop posts the same texts over as many connections as one engine gets from us, and keeps no row of it."""
    each, seconds = (3, 1) if quick else (10, 4)
    engine = waha_stub.start(stores)
    sides = {
        "waqueue": lambda: _ours(stores, engine, each),
        "bare aiohttp loop": lambda: _bare(stores, engine, seconds),
    }
    found = alternate({name: _all_arrive(engine, side) for name, side in sides.items()}, rounds)
    return Result(
        "waha_http",
        compared(found, "waqueue", {"bare aiohttp loop": 0.5}),
        [
            f"Both have {_CONNECTIONS} connections to the stub, which got as many texts as were counted.",
            f"The loop posts for {seconds} s, which is about as long as waqueue takes, and reads the answers.",
            "waqueue is one worker with the key of each session sealed in its row.",
        ],
    )


def _ours(stores: Stores, engine: str, each: int) -> Run:
    return ours.measure(stores, _SESSIONS, each, transport="waha", config={"base_url": engine, "api_key": _KEY})


def _bare(stores: Stores, engine: str, seconds: float) -> Run:
    address, headers = f"{engine}/api/sendText", {"X-Api-Key": _KEY}
    texts = [
        (address, {"session": f"s{number}", "chatId": "51930246633@c.us", "text": TEXT, "linkPreview": False})
        for number in range(_SESSIONS)
    ]  # fmt: skip
    return post(stores, texts, connections=_CONNECTIONS, status=201, headers=headers, seconds=seconds)


def _all_arrive(engine: str, side: Callable[[], Run]) -> Callable[[], Run]:
    """The side, and a look at whether the engine got each text once."""

    def measure() -> Run:
        before = waha_stub.accepted(engine)
        run = side()
        if (arrived := waha_stub.accepted(engine) - before) != run.messages:
            raise BenchmarkError(f"the engine got {arrived} texts instead of {run.messages}")
        return run

    return measure
