import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.adoption import take_over
from coordinator.config import Config, Local
from coordinator.handover import SocketKeeper, handover_path
from coordinator.listeners import bind_all
from coordinator.processes import name_of, write_name
from coordinator.startup import StartFailed
from coordinator.workforce import record_path


@pytest.fixture
async def left(config: Config, tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of w1 that holds the sockets (through us) as a dead coordinator left it."""
    (tmp_path / "run").mkdir()
    child = await asyncio.create_subprocess_exec("sleep", "60")
    write_name(record_path(tmp_path / "run", "w1", child.pid), name_of(child.pid))
    bound = bind_all(config)
    numbers = {name: [s.fileno() for s in sockets] for name, sockets in bound.shared().items()}
    keeper = SocketKeeper(handover_path(tmp_path / "run", "w1", child.pid), numbers)
    bound.close()
    keeper.start()
    yield child
    keeper.close()
    if child.returncode is None:
        child.kill()
    await child.wait()


async def test_sockets_come_from_a_living_worker(
    config: Config, tmp_path: Path, left: asyncio.subprocess.Process
):
    taken = await take_over(config, tmp_path / "run", wanted=True)
    assert [(orphan.slot, orphan.process.pid) for orphan in taken.orphans] == [("w1", left.pid)]
    shown = taken.listeners.addresses()
    assert [len(shown[key]) for key in ("websocket", "local", "dns", "admin")] == [1, 1, 1, 1]
    host, _, port = shown["local"][0].rpartition(":")
    socket.create_connection((host, int(port))).close()
    assert left.returncode is None
    taken.listeners.close()


async def test_a_worker_on_other_addresses_is_stopped(
    config: Config, tmp_path: Path, left: asyncio.subprocess.Process
):
    elsewhere = replace(config, local=replace(config.local, listen="127.0.0.2:0"))
    taken = await take_over(elsewhere, tmp_path / "run", wanted=True)
    assert not taken.orphans and await left.wait()
    assert taken.listeners.addresses()["local"][0].startswith("127.0.0.2:")
    taken.listeners.close()


async def test_without_workers_of_its_own_a_coordinator_adopts_none(
    config: Config, tmp_path: Path, left: asyncio.subprocess.Process
):
    taken = await take_over(config, tmp_path / "run", wanted=False)
    assert not taken.orphans and not taken.listeners.local and await left.wait()
    taken.listeners.close()


async def test_when_the_admin_address_is_taken_nothing_leaks(
    config: Config, tmp_path: Path, left: asyncio.subprocess.Process
):
    with socket.create_server(("127.0.0.1", 0)) as other:
        admin = replace(config.admin, listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(StartFailed, match="another process has it"):
            await take_over(replace(config, admin=admin), tmp_path / "run", wanted=True)
    assert left.returncode is None  # the next attempt may do better


async def test_with_nobody_left_all_is_bound(config: Config, tmp_path: Path):
    taken = await take_over(
        replace(config, local=Local(listen="127.0.0.1:0", dns="")), tmp_path, wanted=True
    )
    assert not taken.orphans and taken.listeners.local and not taken.listeners.dns_udp
    taken.listeners.close()
