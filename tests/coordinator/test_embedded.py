import asyncio
import os
import signal
from pathlib import Path

import pytest

from coordinator import embedded
from coordinator.embedded import EmbeddedProblem, EmbeddedRedis, find_server
from coordinator.processes import name_of, read_name, write_name


async def test_it_answers_on_a_private_socket_and_is_gone_after_stop(
    redis: EmbeddedRedis, tmp_path: Path
):
    socket = tmp_path / "run" / "redis.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    process = redis.process
    assert process and read_name(tmp_path / "run" / "redis.json") == process
    await redis.stop()
    assert not process.is_alive()
    assert not (tmp_path / "run" / "redis.json").exists()


async def test_one_that_answers_is_adopted(redis: EmbeddedRedis, tmp_path: Path):
    second = EmbeddedRedis(tmp_path)
    await second.start()
    assert second.process == redis.process
    await second.stop()
    await redis.wait()
    await second.wait()


async def test_the_end_of_the_server_is_noticed_also_of_an_adopted_one(
    redis: EmbeddedRedis, tmp_path: Path
):
    adopted = EmbeddedRedis(tmp_path)
    await adopted.start()
    assert adopted.process
    adopted.process.send(signal.SIGKILL)
    await asyncio.gather(adopted.wait(), redis.wait())
    await adopted.start()  # over the socket file that the killed one left
    assert adopted.process.is_alive()
    await adopted.stop()


async def test_a_leftover_that_does_not_answer_is_stopped(tmp_path: Path):
    (tmp_path / "run").mkdir()
    mute = await asyncio.create_subprocess_exec("sleep", "60")
    write_name(tmp_path / "run" / "redis.json", name_of(mute.pid))
    server = EmbeddedRedis(tmp_path)
    await server.start()
    assert await mute.wait() == -signal.SIGTERM
    await server.stop()


async def test_a_server_that_ends_at_once_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonlydir").write_text("in the way")
    server = EmbeddedRedis(tmp_path)
    with pytest.raises(EmbeddedProblem, match=r"redis-server ended at once: .*redis\.url"):
        await server.start()
    await server.stop()


async def test_too_long_a_path_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(EmbeddedProblem, match="too long for a unix socket"):
        await EmbeddedRedis(tmp_path / ("x" * 100)).start()


def test_without_any_server_the_next_steps_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedProblem, match="apt install redis-server"):
        find_server()


def test_redislites_server_is_the_second_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").touch()
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: Spec)
    assert find_server() == str(tmp_path / "bin" / "redis-server")


async def test_nobody_else_reaches_it_whatever_the_umask(tmp_path: Path):
    server = EmbeddedRedis(tmp_path)
    (tmp_path / "run").mkdir(mode=0o700)
    before = os.umask(0)
    try:
        await server.start()
        assert (tmp_path / "run" / "redis.sock").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "redis").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "run" / "redis.json").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
        await server.stop()
