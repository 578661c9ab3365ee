"""`python -m loadtest.load.bench`: what one load process drives, per second of its CPU.

Against the bare echo (`loadtest.sink --websocket`), chat messages of 200 bytes by three drivers:

    locust            the whole of it: users, engine, ledger, tables
    engine            the engine alone, without gevent and locust
    websockets.sync   a blocking client per domain in gevent, which parses nothing (bench_sync.py)

A stanza is one sent and its answer received. Sessions are opened and authenticated.
"""

import argparse
import asyncio
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from loadtest.load import messages
from loadtest.load.certificates import LoadAuthority
from loadtest.load.fleet import Fleet
from loadtest.load.settings import FleetSettings
from loadtest.stage.addresses import WEBSOCKET_PORT, Addresses
from loadtest.stage.processes import StageProcess

TARGET = "sink.example"
_DRIVERS = ("locust", "engine", "websockets.sync")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m loadtest.load.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--domains", type=int, default=50)
    top.add_argument("--burst", type=int, default=16, help="stanzas a domain sends at once")
    top.add_argument("--seconds", type=float, default=5.0)
    top.add_argument("--rate", type=float, default=4000.0, help="stanzas per second, for locust")
    top.add_argument("--only", choices=_DRIVERS, help=argparse.SUPPRESS)
    top.add_argument("--connect", default="", help=argparse.SUPPRESS)
    top.add_argument("--ca", default="", help=argparse.SUPPRESS)
    return top


def cpu() -> float:
    """Seconds of CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def told(stanzas: int, cpu_seconds: float, seconds: float, sessions: float) -> str:
    """What a driver says; `sessions` per second of CPU."""
    return json.dumps(
        {"stanzas": stanzas, "cpu": cpu_seconds, "seconds": seconds, "sessions": sessions}
    )


class CountingFleet(Fleet):
    """Tells when so many stanzas have come."""

    def expect(self, count: int) -> None:
        self.left, self.all_came = count, asyncio.Event()

    def note(self, name: str, seconds: float | None, error: str) -> None:
        super().note(name, seconds, error)
        if name == "chat":
            self.left -= 1
            if not self.left:
                self.all_came.set()


async def drive_engine(options: argparse.Namespace) -> str:
    """Bursts of each domain, the next when the last has come back."""
    host, _, port = options.connect.rpartition(":")
    settings = FleetSettings(
        url=f"wss://{TARGET}:{port}/xmpp-s2s", address=(host, int(port)), target=TARGET
    )
    fleet = CountingFleet(settings, LoadAuthority(Path(options.ca)), "b")
    await fleet.start()
    domains = [fleet.new_domain() for _ in range(options.domains)]
    began = cpu()
    await asyncio.gather(*(domain.connect() for domain in domains))
    opened = cpu() - began
    echo, text = f"echo@{TARGET}", messages.body(200)
    began, started_at = cpu(), time.monotonic()
    while time.monotonic() < started_at + options.seconds:
        fleet.expect(len(domains) * options.burst)
        for domain in domains:
            for _ in range(options.burst):
                domain.send_message("chat", echo, text)
        await fleet.all_came.wait()
    stanzas = fleet.ledger.record.account("chat").delivered
    answer = told(stanzas, cpu() - began, time.monotonic() - started_at, len(domains) / opened)
    await fleet.stop()
    return answer


class Bench:
    """The bare echo, and one driver after the other against it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._addresses = Addresses()
        self._directory = Path(tempfile.mkdtemp(prefix="fedgate-bench-"))
        self._connect = f"{self._addresses.of(1)}:{WEBSOCKET_PORT}"
        self._ca = self._directory / "ca"
        self._echo = StageProcess(
            "echo",
            [
                *(sys.executable, "-P", "-m", "loadtest.sink", "--websocket"),
                *("--domain", TARGET, "--listen", self._connect, "--ca", str(self._ca)),
            ],
            self._directory / "echo.log",
        )

    async def __aenter__(self) -> "Bench":
        self._echo.start()
        await self._echo.wait_for_port(self._addresses.of(1), WEBSOCKET_PORT)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._echo.stop()
        self._addresses.release()

    def drive(self, driver: str) -> dict[str, float]:
        """What it said. Raises `subprocess.CalledProcessError`."""
        if driver == "locust":
            return self._drive_locust()
        module = (
            "loadtest.load.bench_sync" if driver == "websockets.sync" else "loadtest.load.bench"
        )
        command = [sys.executable, "-P", "-m", module, "--only", driver]
        command += ["--connect", self._connect, "--ca", str(self._ca), *self._numbers()]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(answer.stdout)
        return found

    def _numbers(self) -> list[str]:
        names = ("domains", "burst", "seconds")
        return [part for name in names for part in (f"--{name}", str(getattr(self._options, name)))]

    def _drive_locust(self) -> dict[str, float]:
        options, report = self._options, self._directory / "locust"
        command = [sys.executable, "-P", "-m", "locust", "-f"]
        command += [str(Path(__file__).parent.parent / "locustfile.py"), "Chat", "--headless"]
        command += ["--url", f"wss://{self._connect}/xmpp-s2s", "--ca", str(self._ca)]
        command += ["-u", str(options.domains), "-r", str(options.domains), "--only-summary"]
        command += ["-t", f"{math.ceil(options.seconds) + 2}s", "--burst", str(options.burst)]
        command += ["--rate", str(options.rate / options.domains), "--report", str(report)]
        subprocess.run([*command, "--fail-if", "lost>0"], check=True, capture_output=True)
        figures: dict[str, Any] = json.loads(report.with_name("locust.json").read_text())
        return {
            "stanzas": figures["totals"]["delivered"],
            # Not less than a tick of the clock it is counted with.
            "cpu": max(figures["processes"]["load"]["cpu_seconds"], 0.01),
            "seconds": figures["seconds"],
            "sessions": 0.0,
        }


async def run(options: argparse.Namespace) -> None:
    """Print a line for each driver."""
    print(f"{options.domains} domains, bursts of {options.burst}")
    print(f"{'':18}{'stanzas/s':>12}{'CPU':>8}{'per CPU-second':>18}{'sessions/CPU-s':>18}")
    async with Bench(options) as bench:
        for driver in _DRIVERS:
            found = await asyncio.to_thread(bench.drive, driver)
            sessions = f"{found['sessions']:,.0f}" if found["sessions"] else "–"
            print(
                f"{driver:18}{found['stanzas'] / found['seconds']:12,.0f}"
                f"{found['cpu'] / found['seconds']:8.0%}"
                f"{found['stanzas'] / found['cpu']:18,.0f}{sessions:>18}",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.only:
        print(uvloop.run(drive_engine(options)))
    else:
        asyncio.run(run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
