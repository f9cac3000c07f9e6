"""`python -m benchmarks.worker`: the worker as operators run it, with the engines of the benchmarks."""

import django
from django.core.management import call_command


def main() -> None:
    """Run `manage.py rqworker` in this process."""
    django.setup()
    from benchmarks import transports

    transports.register()
    call_command("rqworker")


if __name__ == "__main__":
    main()
