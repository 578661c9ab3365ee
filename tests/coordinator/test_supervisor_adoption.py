"""Workers and Redis outlive a killed coordinator, and the next one takes them over."""

import json
import signal
import socket

from tests.coordinator.supervisor_scene import Start


async def test_workers_outlive_a_killed_coordinator_and_the_next_one_adopts_them(start: Start):
    first = await start(workers=2)
    await first.says("ready, listening on")
    workers, redis = [first.worker("w1"), first.worker("w2")], first.redis()
    listening = (await first.get("/api/status"))["listening"]
    before = {worker["id"] for worker in await first.get("/api/workers")}
    await first.die()
    waiting = [connect_to(listening["websocket"][0]), connect_to(listening["local"][0])]

    second = await start(workers=2)
    await second.says("ready, listening on")
    assert f"adopted the running redis-server, pid {redis.pid}" in second.seen
    assert [second.worker("w1"), second.worker("w2")] == workers
    status = await second.get("/api/status")
    assert {key: status["listening"][key] for key in ("websocket", "local", "dns")} == {
        key: listening[key] for key in ("websocket", "local", "dns")
    }
    shown = await second.until("/api/workers", lambda all: all[0]["routes"] or all[1]["routes"])
    assert {worker["id"] for worker in shown} == before
    assert [worker["state"] for worker in shown] == ["running", "running"]
    outbound = (await second.get("/api/ledger"))["outbound"]
    assert (outbound["accepted"], outbound["in_flight"]) == (6, 6)

    # One that dies now is replaced, and the new one accepts on the same sockets.
    workers[0].send(signal.SIGKILL)
    await second.says("ended, its exit code is not known")
    line = await second.says("w1 works, sockets")
    assert "websocket=" in line and "local=" in line
    await second.until("/readyz", lambda answer: not answer["degraded"])
    for sock in waiting:
        sock.close()

    second.process.send_signal(signal.SIGTERM)
    assert await second.ends() == 0
    totals = json.loads((second.home / "ledger" / "closed.json").read_text())["totals"]
    assert totals[:2] == [9, 6]  # accepted by three workers, acknowledged by two


def connect_to(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


async def test_workers_on_other_sockets_than_are_configured_now_must_go(start: Start):
    first = await start()
    await first.says("w1 works")
    worker = first.worker("w1")
    await first.die()
    with socket.create_server(("127.0.0.1", 0)) as free:
        local = f"127.0.0.1:{free.getsockname()[1]}"
    second = await start(local=local)
    await second.says(f"the workers of the former coordinator must go: local.listen is {local} now")
    await second.says(f"stopping worker pid {worker.pid}, left by a former coordinator")
    await second.says("w1 works")
    assert (await second.get("/api/status"))["listening"]["local"] == [local]
    assert not worker.is_alive()


async def test_an_adopted_worker_that_hangs_is_replaced(start: Start):
    first = await start(gateway="hang_timeout = 2")
    await first.says("w1 works")
    worker = first.worker("w1")
    await first.die()
    worker.send(signal.SIGSTOP)
    second = await start(gateway="hang_timeout = 2")
    # It cannot hand over its sockets: it must go.
    await second.says("gives no sockets: no answer in time")
    await second.says("w1 works")
    assert second.worker("w1") != worker
