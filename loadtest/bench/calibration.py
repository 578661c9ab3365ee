"""How much dearer the machine makes the same work when it comes in portions with pauses between.

While nothing runs a processor loses its caches to others, on a virtual machine also to other
machines: after a millisecond a walk through 512 KiB took up to three times as long as before, and
a loop that needs no memory no longer. A worker at half of its load shows that, too.
"""

import functools
import time
from collections.abc import Callable

from loadtest import micro
from loadtest.micro_path import stanzas

BATCH = 48
"""About what a worker reads at once when it is paced."""
_COUNT = 60 * BATCH


@functools.cache
def _bare() -> Callable[[], object]:
    return micro.SUBJECTS[micro.BARE](stanzas(BATCH))


def bare_xml() -> float:
    """µs of CPU that lxml takes to parse and serialise a message, many at once, at this moment.

    In 20 ms, of which the first half is not counted: a process that has waited begins cold. On a
    virtual machine it may be one of two figures, the larger where another one has the other half
    of the same physical core. It tells that there was such company, not which run had it.
    """
    micro.measure(_bare(), BATCH, count=_COUNT)
    return micro.measure(_bare(), BATCH, count=_COUNT)


def paced_to_saturated(rate: float, count: int) -> float:
    """CPU of lxml parsing and serialising `count` messages at `rate` a second, to that in a row.

    Takes the time of `count` messages twice; nothing else happens in this thread meanwhile.
    """
    work = _bare()
    rounds = max(1, count // BATCH)
    spent = []
    for pause in (0.0, BATCH / rate):
        work()
        total, due = 0, time.monotonic()
        for _ in range(rounds):
            begun = time.thread_time_ns()
            work()
            total += time.thread_time_ns() - begun
            due += pause
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
        spent.append(total)
    return spent[1] / spent[0]
