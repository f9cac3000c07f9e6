"""Child processes of a worker: for what must not be in the sends' way, and for what may kill whoever does it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import cast

from django.conf import settings

_PR_SET_PDEATHSIG = 1


class Talker:
    """A child that is asked on its standard input, and answers on its standard output, a line each."""

    def __init__(self, process: Process, questions: asyncio.StreamWriter, answers: asyncio.StreamReader) -> None:
        self._process = process
        self._questions = questions
        self._answers = answers
        self._was_ended = False

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked, as far as is known."""
        return self._process.returncode is None and not self._was_ended

    async def ask(self, question: bytes) -> bytes:
        """Its answer; less than a line if it dies meanwhile."""
        try:
            self._questions.write(question)
            await self._questions.drain()
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return await self.hear()

    async def hear(self) -> bytes:
        """What it says next; less than a line if it dies meanwhile."""
        return await self._answers.readline()

    async def end(self) -> None:
        """Kill it, and wait for its end. It may be called again when it was cancelled."""
        self._was_ended = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._questions.close()
        await self._process.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._questions.wait_closed()


async def start_talker(*arguments: str) -> Talker:
    """Start a child that answers. Raises OSError."""
    process = await start(*arguments, pipe=asyncio.subprocess.PIPE)
    return Talker(process, cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stdout))


async def start(*arguments: str, pipe: int | None = None) -> Process:
    """Start Python with these arguments and this project's settings. It ends with the worker, however that ends.

    `pipe` is what its standard input and output are made of. Raises OSError.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments,
        stdin=pipe, stdout=pipe,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "waqueue.settings")},
        # Python looks for the project there, wherever the worker was started.
        cwd=settings.BASE_DIR,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )  # fmt: skip


def _die_with_parent() -> None:
    """Have the system end this child when the worker is killed: it would be left over otherwise."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _find_prctl() -> Callable[..., int] | None:
    """Look it up once: what is between fork and exec may not load anything. macOS has none."""
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None


_prctl = _find_prctl()
