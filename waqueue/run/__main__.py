"""The entry: `python -m waqueue.run`."""

import os
import sys

from waqueue.embedded import ServerError

from .configuration import Configuration, RunError
from .console import Console
from .home import Home
from .loop import Loop, StopRequested
from .supervisor import Supervisor


def main() -> int:
    """Run until Ctrl-C or SIGTERM. Return 0 then, and 1 with one sentence if something cannot be."""
    console = Console(sys.stdout)
    console.show_log("waqueue.embedded")
    try:
        configuration = Configuration.from_environment(os.environ)
        home = Home(configuration.home)
        home.open()
        with Loop(console) as loop:
            supervisor = Supervisor(configuration, home, loop, console)
            try:
                supervisor.run()
            except StopRequested:
                console.say("Stopping. Messages that are being sent may finish first; Ctrl-C again hurries.")
            finally:
                loop.begin_stop()
                supervisor.stop()
    except (RunError, ServerError) as error:
        console.say(f"Cannot run: {error}.")
        return 1
    except OSError as error:
        console.say(f"Cannot run: {error.filename or 'the system'} says {error.strerror}; look at its owner and space.")
        return 1
    console.say("Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
