"""The terminal: a line of each process with its name in front, and our own sentences."""

import logging
import os
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from honcho.printer import Message, Printer

_COLOURS = {"waqueue": "32", "web": "36", "worker": "33"}


class Console:
    """Writes lines. A terminal that goes away ends the writing, not the run."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._printer = Printer(output, width=max(map(len, _COLOURS)))

    def show_log(self, name: str) -> None:
        """Write the records of a logger as sentences."""
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_Forward(self.say))

    def say(self, sentence: str) -> None:
        """Write a sentence of our own."""
        self.line("waqueue", sentence)

    def line(self, name: str, text: str) -> None:
        """Write a line of a process."""
        message = Message(type="line", data=text or " ", time=datetime.now(), name=name, colour=_COLOURS.get(name))
        self._guarded(lambda: self._printer.write(message))

    def plain(self, text: str) -> None:
        """Write text with nothing before it, so that it can be pasted."""
        self._guarded(lambda: self._output.write(f"{text}\n"))
        self._guarded(self._output.flush)

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            # What is still in the buffer goes there too, at the latest when the program ends.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._output.fileno())


class _Forward(logging.Handler):
    """Hands log records on as sentences."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
