"""`make demo` as a person starts it: it tells what happens, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from loadtest.stage.processes import eventually


@pytest_asyncio.fixture(loop_scope="session")
async def demo() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "loadtest.demo", "--keep"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    yield process
    if process.returncode is None:
        process.terminate()
        await process.wait()


async def read_until(process: asyncio.subprocess.Process, words: str, within: float = 60) -> str:
    """What it prints up to the line with these words, or up to its end."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(within):
        while words not in text and (line := await process.stdout.readline()):
            text += line.decode()
    assert words in text, text
    return text


def folder_in(text: str) -> str:
    """Where it said that its files are."""
    found = re.search(r"/tmp/fedgate-stage-\w+", text)
    assert found, text
    return found[0]


def processes_of(folder: str) -> list[str]:
    """Command lines of what was started for this demo and still runs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if f"{folder}/" in f"{command}{place}/":
            found.append(command)
    return found


async def expect_nothing_left(process: asyncio.subprocess.Process, folder: str) -> None:
    process.send_signal(signal.SIGINT)
    rest = await read_until(process, "nothing left behind", within=40)
    assert "Traceback" not in rest
    assert await process.wait() == 0
    await eventually(lambda: not processes_of(folder), within=5, what="all processes are gone")
    assert os.path.basename(folder) not in os.listdir("/tmp")


async def test_it_tells_what_happens_and_runs_until_interrupted(
    demo: asyncio.subprocess.Process,
) -> None:
    text = await read_until(demo, "running until Ctrl-C")

    assert "Wherefore art thou Romeo" in text
    assert "500 messages each way, all arrived, in order" in text
    screen = text[text.index("sessions of") :].splitlines()
    assert len(screen) <= 24
    assert max(map(len, screen)) <= 80
    row = r"capulet +capulet.example ↔ montague.example +(out|in)bound ⇄ +external"
    assert re.search(row, text)
    assert re.search(r"montague +montague.example → capulet.example +w\d", text)
    assert re.search(r"montague in +50\d +50\d( +0){5}", text)
    for page in set(re.findall(r"http://\S+/", text)):
        with await asyncio.to_thread(urllib.request.urlopen, page, timeout=5) as answer:
            assert answer.status == 200

    await expect_nothing_left(demo, folder_in(text))


async def test_interrupted_while_it_starts(demo: asyncio.subprocess.Process) -> None:
    text = await read_until(demo, "fedgate attach ejabberd")
    assert processes_of(folder_in(text))
    await expect_nothing_left(demo, folder_in(text))
