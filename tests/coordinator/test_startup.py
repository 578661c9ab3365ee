import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import startup
from coordinator.accounts import Account, account_path
from coordinator.config import Admin, Config, WebSocket
from coordinator.embedded import EmbeddedRedis
from coordinator.exits import ExitCode
from coordinator.handover import socket_name
from coordinator.startup import StartFailed
from coordinator.store import Store, redis_url


def test_the_state_directory_lets_others_pass_to_the_authority_only(tmp_path: Path):
    state = tmp_path / "deep" / "state"
    startup.prepare(state)
    startup.prepare(state)
    assert state.stat().st_mode & 0o777 == 0o711
    assert {(state / name).stat().st_mode & 0o777 for name in ("run", "ledger")} == {0o700}


def test_a_state_directory_that_cannot_be_made_is_a_configuration_failure(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match=r"cannot use .*gateway\.state_dir") as caught:
        startup.prepare(tmp_path / "file" / "state")
    assert caught.value.code == ExitCode.CONFIGURATION


def test_two_coordinators_on_one_state_directory_are_refused(tmp_path: Path):
    startup.prepare(tmp_path)
    with (
        startup.locked(tmp_path),
        pytest.raises(StartFailed, match=rf"another coordinator \(pid {os.getpid()}\)") as caught,
        startup.locked(tmp_path),
    ):
        raise AssertionError("two coordinators")
    assert caught.value.code == ExitCode.FAILURE
    with startup.locked(tmp_path):
        pass


def test_an_unusable_lock_is_said(tmp_path: Path):
    with pytest.raises(StartFailed, match="cannot use"), startup.locked(tmp_path):
        raise AssertionError("locked without a directory")


async def test_each_failure_has_its_exit_code(config: Config, tmp_path: Path):
    elsewhere = replace(config, websocket=WebSocket(listen=("203.0.113.1:1",)))
    with pytest.raises(StartFailed) as caught:
        await startup.bind(elsewhere, shared=True)
    assert caught.value.code == ExitCode.CANNOT_BIND
    (tmp_path / "dialback.secret").write_text("short")
    with pytest.raises(StartFailed) as caught:
        startup.authority(config)
    assert caught.value.code == ExitCode.CERTIFICATE


async def test_an_address_in_use_is_waited_for_but_not_for_long(config: Config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        config = replace(config, admin=Admin(listen=f"{host}:{port}"))
        with pytest.raises(StartFailed, match="another process has it") as caught:
            await startup.bind(config, shared=False, patience=0)
        assert caught.value.code == ExitCode.CANNOT_BIND
        asyncio.get_running_loop().call_soon(taken.close)
        listeners = await startup.bind(config, shared=False)
        assert listeners.addresses()["admin"] == [f"{host}:{port}"]
        listeners.close()


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("redis://:secret@127.0.0.1:1/0", ExitCode.REDIS_UNREACHABLE, "no answer from redis://"),
        ("http://:secret@127.0.0.1:1", ExitCode.CONFIGURATION, "is not usable"),
    ],
)
async def test_an_unreachable_or_wrong_redis_is_one_line_without_the_password(url, code, text):
    store = Store(url)
    with pytest.raises(StartFailed, match=text) as caught:
        await startup.connect(store, None, patience=0)
    assert caught.value.code == code
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    await store.close()


async def test_a_redis_that_comes_a_little_later_is_waited_for(config: Config):
    startup.prepare(Path(config.gateway.state_dir))
    server = EmbeddedRedis(config.gateway.state_dir)
    store = Store(redis_url(config))
    connecting = asyncio.create_task(startup.connect(store, None))
    done, _ = await asyncio.wait([connecting], timeout=0.5)
    assert not done
    await server.start()
    await connecting
    await store.close()
    await server.stop()


async def test_an_embedded_redis_that_cannot_run_is_a_failure(config: Config, tmp_path: Path):
    with pytest.raises(StartFailed) as caught:
        await startup.connect(Store(redis_url(config)), EmbeddedRedis(tmp_path / ("x" * 100)))
    assert caught.value.code == ExitCode.FAILURE


async def test_what_a_killed_coordinator_left_counts_as_dead_at_once(
    config: Config, redis: EmbeddedRedis
):
    store = Store(redis_url(config))
    await store.connect()
    account = Account.create(account_path(config.gateway.state_dir, "gw1/w2.a"))
    for worker in ("gw1/w1.a", "gw1/w2.a", "gw2/w1.a"):
        await store.heartbeat(worker, 60.0, {})
    await startup.forget_dead_workers(store, config)
    assert sorted(await store.live_workers()) == ["gw1/w2.a", "gw2/w1.a"]
    account.close()
    await store.close()


async def test_sockets_of_dead_workers_are_removed_and_those_of_living_ones_stay(tmp_path: Path):
    paths = [tmp_path / socket_name(worker) for worker in ("gw/w1.a", "gw/w2.b", "gw/w3.c")]
    living, *dead = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in paths)
    for sock, path in zip((living, *dead), paths, strict=True):
        sock.bind(str(path))
        sock.listen(1)
    with socket.socket(socket.AF_UNIX) as stream:  # Redis, the coordinator
        stream.bind(str(tmp_path / "redis.sock"))
        for sock in dead:
            sock.close()
        startup.remove_socket(tmp_path, "gw/w3.c")
        startup.remove_socket(tmp_path, "gw/w3.c")
        assert not paths[2].exists() and paths[1].exists()
        startup.remove_stale_sockets(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["gw_w1.a.sock", "redis.sock"]
    living.close()
