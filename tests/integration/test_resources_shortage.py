"""RES-08 and 09: the worker itself is short of descriptors or memory."""

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator

from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.users import User
from tests.integration.conversation import talk
from tests.integration.resources_scene import (
    Victim,
    all_closed,
    client_hello,
    has_answer,
    is_open,
    join,
)


@contextlib.contextmanager
def few_descriptors(pid: int, spare: int) -> Iterator[int]:
    """The process may have `spare` more than it has open; yields the bound."""
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    bound = open_now + spare
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (bound, hard))
    try:
        yield bound
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_res08_without_descriptors_all_goes_on_but_strangers(
    victim: Victim, guest: XmppProxyPeer, juliet: User, friar: User, romeo: User
) -> None:
    with few_descriptors(victim.pid, 80) as bound:
        await asyncio.sleep(1.2)  # the worker looks each second
        socks = [victim.connect(victim.new_address()) for _ in range(50)]
        sources = [victim.new_address() for _ in range(4)]
        socks += [victim.connect(source) for source in sources for _ in range(25)]
        began = victim.cpu_seconds
        await asyncio.sleep(1.0)
        assert victim.cpu_seconds - began < 0.5
        open_now = len(os.listdir(f"/proc/{victim.pid}/fd"))
        assert open_now <= bound * 0.95, (open_now, bound)
        await talk(juliet, romeo)
        # A stream of the local server and its way to a domain that was never written to before.
        await talk(juliet, friar)
        assert await victim.gateway.api("workers")
        await victim.wait_refused("descriptors", 20)
    for sock in socks:
        sock.close()
    await asyncio.sleep(1.2)
    guest.close(await join(guest, victim))


async def test_res09_when_memory_is_short_strangers_make_room_and_sessions_stay(
    victim: Victim, guest: XmppProxyPeer, juliet: User, romeo: User
) -> None:
    wire = await join(guest, victim)
    socks = [victim.connect(victim.new_address()) for _ in range(20)]
    await asyncio.sleep(0.3)
    assert any(map(is_open, socks))
    victim.gateway.configure("gateway", max_worker_rss=int(victim.rss * 1.06))
    await victim.gateway.run("reload")
    await eventually(lambda: all_closed(socks), within=4.5, what="strangers are cut")
    late = victim.connect(victim.new_address())
    late.send(client_hello())
    await asyncio.sleep(0.7)
    assert not has_answer(late)
    await talk(juliet, romeo)
    assert await guest.acknowledged(wire) == 0
    await victim.wait_refused("memory", 10)
    victim.gateway.configure("gateway", max_worker_rss=None)
    await victim.gateway.run("reload")
    await eventually(lambda: has_answer(late), within=5, what="who waited is let in")
    guest.close(await join(guest, victim))
    guest.close(wire)
    late.close()
    for sock in socks:
        sock.close()
