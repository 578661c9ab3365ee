"""The catalogue of faults."""

import asyncio
import signal

import pytest

from loadtest.chaos.__main__ import main
from loadtest.chaos.faults import FAULTS, TIMES, _paused
from loadtest.stage.processes import eventually


def test_every_fault_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    for name, fault in FAULTS.items():
        assert fault.__doc__
        assert f"{name} " in out
    assert set(TIMES) <= set(FAULTS)


async def test_a_paused_process_goes_on_afterwards() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")

    def state() -> str:
        with open(f"/proc/{process.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

    try:
        with _paused(process.pid):
            await eventually(lambda: state() == "T", within=10, what="stopped")
        await eventually(lambda: state() != "T", within=10, what="going on")
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
