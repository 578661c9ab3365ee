"""A worker without a data plane: the real client, an account, and the ways in which workers end.

It behaves as `<state_dir>/behaviour` says: "" (well), "boot-error", "crash", "deaf" (never stops),
"hang" (stops its loop when told to reload), "loop" (for ever, then), "fat" (much memory).
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from coordinator import accounts
from coordinator.client import ControlPlane
from coordinator.config import Config
from coordinator.configfile import load
from coordinator.handover import SocketKeeper, handover_path
from coordinator.routes import DomainPair, worker_id

PAIR = DomainPair("a.example", "b.example")


def say(text: str) -> None:
    """Tell the test: a line in one write, since others write to the same pipe.

    `print` writes the end of the line by itself where PYTHONUNBUFFERED is set.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def behaviour(config: Config) -> str:
    path = Path(config.gateway.state_dir, "behaviour")
    return path.read_text() if path.exists() else ""


async def keep_reporting(plane: ControlPlane, report: dict[str, object]) -> None:
    while True:
        plane.report(report)
        await asyncio.sleep(0.5)


async def work(options: argparse.Namespace) -> int:
    config = load(options.config)
    how = behaviour(config)
    if how == "boot-error":
        say("fedgate: the key is not there; put it there")
        return 78
    if how == "crash":
        return 1
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    plane = ControlPlane(config, worker_id(config, options.id, time.time()))
    account = accounts.Account.create(
        accounts.account_path(config.gateway.state_dir, plane.worker_id)
    )
    account.outbound[accounts.ACCEPTED] += 3
    account.outbound[accounts.IN_FLIGHT_RESENDABLE] += 2
    account.outbound[accounts.IN_FLIGHT_OURS] += 1
    told_to_stop = asyncio.Event()

    sockets = {
        name: [int(number) for number in numbers.split(",")]
        for name, _, numbers in (part.partition("=") for part in options.sockets.split(";"))
    }
    keeper = SocketKeeper(
        handover_path(Path(config.gateway.state_dir, "run"), options.id, os.getpid()), sockets
    )
    keeper.start()
    session = {"domain_pairs": [PAIR], "direction": "outbound", "pid": os.getpid()}

    async def on_request(verb: str, argument: str) -> list[dict[str, object]]:
        if verb == "sessions":
            return [session]
        return [{"pair": list(PAIR), "text": f"{verb} {argument}", "ok": verb != "close"}]

    def on_command(verb: str) -> None:
        say(f"{options.id} told to {verb}")
        if verb == "reload" and how == "hang":
            signal.pause()
        while verb == "reload" and how == "loop":
            pass
        if verb != "reload" and how != "deaf":
            told_to_stop.set()

    plane.on_command = on_command
    plane.on_request = on_request
    await plane.start()
    route = await plane.acquire(PAIR)
    report = {
        "sessions": 1,
        "routes": int(route.owner == plane.worker_id),
        "rss_bytes": 1000 if how != "fat" else 2_000_000_000,
        "errors": [{"at": 1.0, "text": "an example"}],
        "state": "running",
    }
    say(f"{options.id} works, sockets {options.sockets}")
    reporting = asyncio.create_task(keep_reporting(plane, report))
    await told_to_stop.wait()
    reporting.cancel()
    keeper.close()
    account.outbound[accounts.IN_FLIGHT_RESENDABLE] -= 2
    account.outbound[accounts.IN_FLIGHT_OURS] -= 1
    account.outbound[accounts.ACKNOWLEDGED] += 3
    await plane.close()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--config", "--id", "--sockets"):
        parser.add_argument(option)
    sys.exit(asyncio.run(work(parser.parse_args())))
