"""Time what judges a photograph."""

import timeit
from collections.abc import Callable

NUM_TIMED = 5


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of ``NUM_TIMED`` runs, after one that prepares them."""
    run()
    return min(timeit.repeat(run, number=1, repeat=NUM_TIMED))
