"""Locust against a real gateway with its sink: the ledger, the report, the exit code."""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from loadtest.__main__ import LOCUSTFILE, locust_command
from loadtest.load.certificates import LoadAuthority
from loadtest.load.domain import RemoteDomain
from loadtest.load.fleet import Fleet
from loadtest.load.link import Link
from loadtest.load.settings import FleetSettings
from loadtest.rig import DOMAIN, Rig
from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.processes import StageProcess
from workers.xmpp.stanza import Stanza

DOMAINS = 20
_WITHIN = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rig(tmp_path_factory: Any) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("load") / "rig")
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()


async def run(command: list[str]) -> tuple[int, str]:
    """Exit code and output of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _WITHIN)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode or 0, output.decode()


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


async def play(rig: Rig, report: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """One load test: exit code, figures, output."""
    options = argparse.Namespace(report=str(report))
    code, output = await run(locust_command(rig, options, arguments))
    file = report.with_name(report.name + ".json")
    assert file.exists(), output
    return code, json.loads(file.read_text()), output


def check_ledger(figures: dict[str, Any]) -> None:
    """Every scenario adds up, and what must not happen has not happened."""
    for name, each in {"all": figures["totals"], **figures["scenarios"]}.items():
        ended = each["delivered"] + each["bounced"] + each["returned"] + each["lost"]
        assert each["sent"] == ended + each["waiting"], name
        assert [each[key] for key in ("waiting", "lost", "doubled", "reordered")] == 4 * [0], name


async def test_a_mixed_load_arrives_whole_and_in_order(rig: Rig, tmp_path: Path) -> None:
    code, figures, output = await play(
        rig,
        tmp_path / "mixed",
        *("-u", str(DOMAINS), "-r", "20", "-t", "8s", "--rate", "4"),
        *(
            "--mix",
            "Chat=8 IqPing=2 Room=3 OneToMany=2 ManyToOne=2 Churn=1 Hostile=2 ReconnectStorm=1",
        ),
        *("--room-size", "3", "--churn-every", "1", "--storm-every", "4"),
    )
    assert code == 0, output
    check_ledger(figures)
    totals = figures["totals"]
    assert totals["sessions"] == DOMAINS
    assert totals["connects"] > DOMAINS  # some came and went
    assert totals["sent"] > 100, output
    assert {"chat", "iq ping", "room", "room copy", "channel copy", "many to one"} <= set(
        figures["scenarios"]
    )
    errors = figures["errors"]
    assert set(errors["sessions ended"]) == {"cut by the load test"}
    assert (errors["bounced"], errors["sessions refused"]) == ({}, {})
    assert {"load", "sink", "coordinator", "worker w1"} <= set(figures["processes"])
    assert sum(figures["attacks"].values()) > 0
    assert errors["attacks not refused"] == {}
    inbound = (await rig.gateway.wait_settled())["inbound"]
    copies = sum(n["sent"] for name, n in figures["scenarios"].items() if name.endswith("copy"))
    assert inbound["acknowledged"] >= totals["sent"] - copies
    assert inbound["dropped"] == {}


async def test_a_domain_cut_at_its_end_comes_back_to_acknowledge(rig: Rig) -> None:
    """What it has heard would wait at the gateway for the rest of the resumption time."""
    settings = FleetSettings(
        url=rig.url,
        address=(rig.gateway.address, WEBSOCKET_PORT),
        target=DOMAIN,
        zone="cut.example",
    )
    fleet = Fleet(settings, LoadAuthority(rig.authority_directory), "cut")
    await fleet.start()
    domain = fleet.new_domain()
    heard: list[Stanza] = []

    def hear_and_lose(link: Link, stanzas: list[Stanza]) -> None:
        heard.extend(stanzas)
        RemoteDomain.stanzas_received(domain, link, stanzas)
        link.cut()  # with the acknowledgement that was to be written

    domain.stanzas_received = hear_and_lose  # type: ignore[method-assign]
    async with asyncio.timeout(_WITHIN):
        await domain.connect()
        domain.send_message("chat", f"echo@{DOMAIN}", "hello")
        while not heard:  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)
        await fleet.stop()
    assert (len(heard), fleet.ledger.record.accounts["chat"].delivered) == (1, 1)
    assert fleet.ledger.record.ends == {"cut by the load test": 1}
    await rig.gateway.wait_settled()


async def test_nobody_leaves_a_room_before_the_last_word(rig: Rig, tmp_path: Path) -> None:
    """Copies for a domain that has gone would be the gateway's until it gives them up."""
    before = (await rig.gateway.wait_settled())["outbound"]
    code, figures, output = await play(
        rig,
        tmp_path / "room",
        *("-u", "8", "-r", "20", "-t", "3s", "--rate", "200", "--mix", "Room=1"),
        *("--room-size", "8", "--zone", "room.example"),
    )
    assert code == 0, output
    check_ledger(figures)
    room, copies = figures["scenarios"]["room"], figures["scenarios"]["room copy"]
    assert copies["delivered"] > 4 * room["delivered"] > 40
    assert figures["totals"]["connects"] == 8, output
    outbound = (await rig.gateway.wait_settled())["outbound"]
    assert outbound["replayed"] == before["replayed"]


async def test_the_gateway_comes_to_the_domains(rig: Rig, tmp_path: Path) -> None:
    """Without bidi and certificates: dialback, and answers on sessions that the gateway opens."""
    code, figures, output = await play(
        rig,
        tmp_path / "one-way",
        *("-u", "5", "-r", "10", "-t", "6s", "--rate", "4", "--mix", "Chat=1"),
        *("--one-way", "--auth", "dialback", "--zone", "dialback.example"),
    )
    assert code == 0, output
    check_ledger(figures)
    assert figures["totals"]["delivered"] > 20, output


async def test_two_processes_have_one_ledger_and_a_threshold_decides(
    rig: Rig, tmp_path: Path
) -> None:
    """Master and workers against a bare echo; more came than the threshold allows."""
    address = rig.addresses.of(41)
    echo = StageProcess(
        "echo",
        [
            *(sys.executable, "-P", "-m", "loadtest.sink", "--websocket", "--domain", DOMAIN),
            *("--listen", f"{address}:{WEBSOCKET_PORT}", "--ca", str(rig.authority_directory)),
        ],
        tmp_path / "echo.log",
    )
    port = free_port()
    echo.start()
    try:
        await echo.wait_for_port(address, WEBSOCKET_PORT)
        code, output = await run(
            [
                *(sys.executable, "-P", "-m", "locust", "-f", str(LOCUSTFILE), "--headless"),
                *("--processes", "2", "--master-bind-host", "127.0.0.1"),
                *("--master-bind-port", port, "--master-port", port, "Chat", "IqPing"),
                *("-u", "8", "-r", "8", "-t", "3s", "--rate", "5", "--only-summary"),
                *("--url", f"wss://{address}:{WEBSOCKET_PORT}/xmpp-s2s"),
                *("--ca", str(rig.authority_directory), "--report", str(tmp_path / "two")),
                *("--fail-if", "lost>0", "sent>=8"),
            ]
        )
    finally:
        echo.send_signal(signal.SIGTERM)
        await echo.stop()
    assert code == 1, output
    figures = json.loads((tmp_path / "two.json").read_text())
    assert figures["broken"] == ["sent>=8"]
    check_ledger(figures)
    assert figures["totals"]["sessions"] == 8
    assert figures["totals"]["delivered"] > 30
    assert {"load", "load w0", "load w1"} <= set(figures["processes"])
