"""The sink as a component of a real Prosody, asked by another component of it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from loadtest.stage.addresses import COMPONENT_PORT
from loadtest.stage.component import Component
from loadtest.stage.processes import StageProcess
from loadtest.stage.stage import PASSWORD, Stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prosody_stage() -> AsyncIterator[Stage]:
    """One Prosody alone, with places for two components."""
    stage = Stage(components=2, escalus=False)
    stage.servers = (stage.capulet,)
    async with stage:
        yield stage


async def test_the_sink_answers_behind_a_real_server(prosody_stage: Stage, tmp_path: Path) -> None:
    asker, domain = prosody_stage.component_domains(prosody_stage.capulet.domain)
    address = prosody_stage.capulet.address
    sink = StageProcess(
        "sink",
        [
            *(sys.executable, "-P", "-m", "loadtest.sink", "--domain", domain),
            *("--component", f"{address}:{COMPONENT_PORT}"),
        ],
        tmp_path / "sink.log",
        environment={**os.environ, "FEDGATE_SINK_SECRET": PASSWORD},
    )
    received = bytearray()
    component = Component(asker, address, PASSWORD, received.extend)
    sink.start()
    try:
        await sink.wait_for(lambda: "is a component" in sink.log_tail(), "connected", 20)
        await component.connect()
        for number in range(20):
            component.write(
                f"<message from='a@{asker}/x' to='echo@{domain}' id='r.0.{number}' type='chat'>"
                f"<body>it's {number}</body></message>".encode()
            )
        async with asyncio.timeout(15):
            while received.count(b"</message>") < 20:  # noqa: ASYNC110 (it comes in pieces)
                await asyncio.sleep(0.02)
    finally:
        component.close()
        await sink.stop()
    text = received.decode()
    assert re.findall(r"""id=['"](r\.0\.\d+)['"]""", text) == [f"r.0.{n}" for n in range(20)]
    assert "type='error'" not in text
    assert text.count(f"echo@{domain}") == 20
