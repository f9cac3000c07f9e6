"""Named places at which a test has a process die or stop, so that what is found there is what such a thing leaves."""

import os
import signal

_at = os.environ.get("WAQUEUE_TEST_CRASH_AT")
_ON = os.environ.get("WAQUEUE_TEST_CRASH_ON", "")
_BY = signal.Signals[os.environ.get("WAQUEUE_TEST_CRASH_BY", "SIGKILL")]


def reach(name: str, what: object = "") -> None:
    """Die here, as by `kill -9`, if a test asked for it by WAQUEUE_TEST_CRASH_AT; otherwise cost nothing.

    With WAQUEUE_TEST_CRASH_ON, only where that text is a part of `what`. With WAQUEUE_TEST_CRASH_BY=SIGSTOP it is
    frozen instead, once, until somebody has it go on.
    """
    global _at
    if _at is not None and name == _at and _ON in str(what):
        _at = None
        os.kill(os.getpid(), _BY)
