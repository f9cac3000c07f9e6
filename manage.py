#!/usr/bin/env python
"""Run an administrative task of waqueue: `python manage.py help` lists them."""

import os
import sys


def main() -> None:
    """Hand the command line to Django."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "waqueue.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from waqueue.run.home import environment_of_run

    os.environ |= environment_of_run(os.environ)
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}.")
    except Exception as error:
        # What a command that ends well need not import.
        from waqueue.store_errors import said_of_a_store

        said = said_of_a_store(error)
        if not said or "--traceback" in sys.argv:
            raise
        sys.exit(said)


if __name__ == "__main__":
    main()
