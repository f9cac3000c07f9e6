"""Named places at which a test has a process die, so that what a crash leaves there is what a crash really leaves."""

import os
import signal

_AT = os.environ.get("WAQUEUE_TEST_CRASH_AT")
_ON = os.environ.get("WAQUEUE_TEST_CRASH_ON", "")


def reach(name: str, what: object = "") -> None:
    """Die here, as by `kill -9`, if a test asked for it by WAQUEUE_TEST_CRASH_AT; otherwise cost nothing.

    With WAQUEUE_TEST_CRASH_ON, only where that text is a part of `what`.
    """
    if _AT is not None and name == _AT and _ON in str(what):
        os.kill(os.getpid(), signal.SIGKILL)
