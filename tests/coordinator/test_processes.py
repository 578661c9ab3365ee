import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from coordinator import processes
from coordinator.processes import (
    Lock,
    Locked,
    ProcessName,
    name_of,
    read_name,
    stop_process,
    this_process,
    wait_gone,
    write_atomically,
    write_name,
)

STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
signal.pause()
"""


async def spawn(code: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    await process.stdout.readline()
    return process


def test_this_process_lives_and_one_with_its_pid_but_another_start_does_not():
    name = this_process()
    assert name.is_alive()
    assert not ProcessName(name.pid, name.started + 1).is_alive()


def test_a_name_is_kept_in_a_file(tmp_path: Path):
    path = tmp_path / "w1.json"
    write_name(path, this_process())
    assert read_name(path) == this_process()
    path.write_text("{")
    assert read_name(path) is None
    assert read_name(tmp_path / "none") is None


HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(30,)).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def until_a_zombie(pid: int) -> None:
    while "(zombie)" not in Path(f"/proc/{pid}/status").read_text():
        os.sched_yield()


async def test_a_process_lives_as_long_as_one_of_its_threads():
    process = await spawn(HEADLESS)
    name = name_of(process.pid)
    until_a_zombie(process.pid)
    assert name.is_alive()
    await stop_process(name, patience=5)
    assert not name.is_alive()
    assert await process.wait() == -signal.SIGTERM


async def test_a_process_that_ignores_term_is_killed():
    process = await spawn(STUBBORN)
    name = name_of(process.pid)
    await stop_process(name, patience=0.05)
    assert await process.wait() == -signal.SIGKILL
    assert not name.is_alive()
    await wait_gone(name)
    name.send(signal.SIGTERM)  # nobody there: nothing happens


def test_a_gone_process_never_counts_as_alive():
    assert not name_of(2**22 + 1).is_alive()
    assert name_of(2**22 + 1).share() is None


async def test_what_a_process_has_had_of_the_cpus():
    process = await spawn("print(flush=True)\nwhile True: pass")
    name = name_of(process.pid)
    try:
        looks = [name.share()]
        while len(looks) < 2:
            look = name.share()
            if look and looks[0] and look.ran > looks[0].ran + 0.05:
                looks.append(look)
            await asyncio.sleep(0)
        assert looks[1] is not None and looks[1].wants
        name.send(signal.SIGSTOP)
        # Its last slice is counted a moment after it shows as stopped.
        while (stopped := name.share()) is None or stopped.wants or stopped != name.share():  # noqa: ASYNC110 - a process
            await asyncio.sleep(0)
        assert stopped.ran >= looks[1].ran
    finally:
        process.kill()
        await process.wait()


def test_a_replaced_file_has_the_mode_asked_for(tmp_path: Path):
    path = tmp_path / "key"
    write_atomically(path, b"one", mode=0o644)
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_lock_is_held_by_one_and_names_its_holder(tmp_path: Path):
    with Lock(tmp_path / "lock"), pytest.raises(Locked) as caught, Lock(tmp_path / "lock"):
        raise AssertionError("two holders")
    assert caught.value.holder == str(os.getpid())
    with Lock(tmp_path / "lock"):
        pass  # free again


def test_what_is_private_is_made_so_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o664)
    processes.keep_private(key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert "private again" in caplog.text
    caplog.clear()
    processes.keep_private(key)
    assert not caplog.records


def test_files_of_other_users_and_on_other_terms_are_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    key = tmp_path / "key"
    key.touch(mode=0o644)
    key.chmod(0o644)

    def refuse(self: Path, mode: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "chmod", refuse)
    processes.keep_private(key)
    assert "Read-only file system" in caplog.text
    monkeypatch.setattr(processes.os, "geteuid", lambda: 12345)
    caplog.clear()
    processes.keep_private(key)
    assert not caplog.records
