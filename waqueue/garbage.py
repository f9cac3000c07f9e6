"""Python's collector of cycles, as it suits processes that serve."""

import gc

# By default Python looks for cycles each time it has made 700 objects more than it has freed, and looks through all of
# them after a hundred such times. A worker with a thousand messages in flight makes that many at once and frees them
# all: a third of its time went into finding nothing.
_THRESHOLDS = (20_000, 20, 50)


def collect_seldom() -> None:
    """Leave what is loaded by now out of every collection, and collect the rest seldom. Call it when all is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
