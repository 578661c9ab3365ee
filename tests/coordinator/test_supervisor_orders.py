"""Orders and signals to a coordinator at work: restart, reload, what concerns sessions."""

import asyncio
import re
import signal
from pathlib import Path

from coordinator.control import Reply
from coordinator.processes import wait_gone
from tests.coordinator.supervisor_scene import Start


async def test_workers_are_replaced_one_by_one_the_new_one_first(start: Start):
    fedgate = await start(workers=2)
    await fedgate.says("ready, listening on")
    before = [fedgate.worker("w1"), fedgate.worker("w2")]
    reply = await fedgate.order("restart")
    assert reply.ok and reply.text.startswith("2 workers are replaced")
    seen = len(fedgate.seen)
    await fedgate.says("w2 told to drain")
    async with asyncio.timeout(15):
        await asyncio.gather(*(wait_gone(process) for process in before))
    steps = re.findall(r"w[12](?:\.\w+ is ready| told to drain)", fedgate.seen[seen:])
    assert [re.sub(r"\.\w+", "", step) for step in steps] == [
        "w1 is ready",
        "w1 told to drain",
        "w2 is ready",
        "w2 told to drain",
    ]
    assert fedgate.worker("w1") and fedgate.worker("w2")
    assert not await fedgate.get("/api/errors") or "ended" not in fedgate.seen[seen:]


async def test_a_successor_that_cannot_boot_leaves_the_present_worker_alone(
    start: Start, tmp_path: Path
):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    worker = fedgate.worker("w1")
    (tmp_path / "behaviour").write_text("boot-error")
    assert (await fedgate.order("restart")).ok
    await fedgate.says("stays, for its successor ended")
    assert worker.is_alive()
    assert (await fedgate.get("/readyz")) == {"ready": True, "degraded": []}


async def test_a_reload_takes_what_is_sound_and_refuses_what_is_broken(
    start: Start, tmp_path: Path
):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    worker = fedgate.worker("w1")
    file = tmp_path / "fedgate.toml"
    sound = file.read_text()

    file.write_text(
        sound.replace("drain_timeout = 5", "drain_timeout = 7") + "[limits]\ndepth = 40"
    )
    reply = await fedgate.order("reload")
    assert reply == Reply(
        True,
        "certificates and configuration were read again; "
        "in force: gateway.drain_timeout, limits.depth",
    )
    await fedgate.says("w1 told to reload")
    assert (await fedgate.get("/api/config"))["gateway"]["drain_timeout"] == 7

    file.write_text(sound.replace("drain_timeout = 5", "drain_timeout = soon"))
    reply = await fedgate.order("reload")
    assert not reply.ok and reply.text.startswith("nothing was changed: ")
    assert (await fedgate.get("/api/config"))["gateway"]["drain_timeout"] == 7
    assert (await fedgate.get("/api/errors"))[-1]["worker"] == "reload"

    # A worker that has to be replaced meanwhile does not read the broken file.
    worker.send(signal.SIGKILL)
    await fedgate.says("w1 works")


async def test_orders_about_sessions_are_answered_by_the_workers(start: Start):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    pair = "a.example ↔ b.example"
    assert await fedgate.order("ping", "B.example") == Reply(True, f"{pair}: ping b.example")
    assert await fedgate.order("reconnect") == Reply(True, f"{pair}: reconnect ")
    assert await fedgate.order("close", "b.example") == Reply(False, f"{pair}: close b.example")
    assert not (await fedgate.order("ping", "not a domain")).ok


async def test_hup_and_orders_reach_the_workers(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    fedgate.process.send_signal(signal.SIGHUP)
    await fedgate.says("w1 told to reload")
    assert (await fedgate.order("reload")).ok
    await fedgate.says("w1 told to reload")
    assert await fedgate.order("dance") == Reply(
        False,
        "unknown order 'dance'; there are close, drain, ping, reconnect, reload, restart",
    )
    assert await fedgate.order("drain", "w7") == Reply(
        False, "no worker w7 runs here; there are w1"
    )
    assert (await fedgate.order("drain", "w1")).ok
    await fedgate.says("w1 told to drain")
    await fedgate.says("w1 works")  # its successor
    assert (await fedgate.order("drain")).ok
    assert await fedgate.ends() == 0
