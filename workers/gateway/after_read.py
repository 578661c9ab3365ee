"""What is to be done when what is being read, by whatever channel, has been taken.

The loop's next turn would do as well, but costs 3 µs with its call_soon, its callback and, in
libuv, one more epoll_wait.
"""

import asyncio
from collections.abc import Callable

_steps: list[Callable[[], None]] = []
_is_reading = False


def after_read(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
    """Do it when what is being read has been taken; if nothing is, in the loop's next turn."""
    if _is_reading:
        _steps.append(step)
    else:
        loop.call_soon(step)


def begin_read() -> None:
    """A read is being taken until `end_read`, before which nothing is awaited."""
    global _is_reading
    _is_reading = True


def end_read(loop: asyncio.AbstractEventLoop) -> None:
    """It has been taken: do what was put off. Never raises."""
    global _is_reading
    for step in _steps:  # which may bring another one
        try:
            step()
        except Exception as exc:
            # As in a turn of its own: most steps are of other connections than the one that reads,
            # which must not be cut for it.
            loop.call_exception_handler({"message": f"{step} after a read", "exception": exc})
    _is_reading = False
    _steps.clear()
