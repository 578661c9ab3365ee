"""The loop's thread beside gevent; in a process of its own, because gevent patches it."""

import subprocess
import sys

_SCENE = """
import gevent.monkey
gevent.monkey.patch_all()
import asyncio, threading, time
import gevent
from loadtest.load.engine import Engine

engine = Engine()
get_ident = gevent.monkey.get_original("_thread", "get_ident")
here = get_ident()

# Calls keep their order, in another thread than gevent's.
seen, threads = [], set()
for n in range(1000):
    engine.call(lambda n=n: (seen.append(n), threads.add(get_ident())))

async def nap(value):
    await asyncio.sleep(0.2)
    return value

# Greenlets wait for coroutines all at once, and other greenlets go on meanwhile.
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
ticking = gevent.spawn(tick)
started = time.monotonic()
waiting = [gevent.spawn(engine.run, lambda n=n: nap(n)) for n in range(50)]
gevent.joinall(waiting)
assert [each.value for each in waiting] == list(range(50))
assert time.monotonic() - started < 5
assert len(ticks) > 5
assert seen == list(range(1000))
assert threads and here not in threads

async def fail():
    raise KeyError("told")
try:
    engine.run(fail)
except KeyError as exc:
    assert exc.args == ("told",)
else:
    raise AssertionError("an exception was lost")

# A call that fails ends nothing.
engine.call(lambda: 1 / 0)
assert engine.run(lambda: nap("still there")) == "still there"
ticking.kill()
engine.stop()
print("done")
"""


def test_the_engine_serves_greenlets_from_a_thread_of_its_own() -> None:
    scene = subprocess.run(
        [sys.executable, "-P", "-c", _SCENE], capture_output=True, text=True, timeout=60
    )
    assert scene.stdout == "done\n", scene.stderr
    assert "ZeroDivisionError" in scene.stderr
