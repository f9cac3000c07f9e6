"""Named places at which a test has a process die, so that what a crash leaves there is what a crash really leaves."""

import os
import signal

_AT = os.environ.get("WAQUEUE_TEST_CRASH_AT")


def reach(name: str) -> None:
    """Die here, as by `kill -9`, if a test asked for it by WAQUEUE_TEST_CRASH_AT; otherwise cost nothing."""
    if _AT is not None and name == _AT:
        os.kill(os.getpid(), signal.SIGKILL)
