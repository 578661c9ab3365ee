"""`python -m loadtest.sink`: the local server behind a gateway under test, until TERM."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from coordinator.address import parse_address
from loadtest.load.certificates import DIRECTORY, LoadAuthority
from loadtest.load.listener import WssListener
from loadtest.sink.bare import BareEcho
from loadtest.sink.behaviour import Behaviour
from loadtest.sink.server import Sink
from workers.gateway.tls import client_context, server_context


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m loadtest.sink", description=__doc__)
    top.add_argument("--domain", default="sink.example", help="the domain it serves")
    top.add_argument("--listen", default="127.0.0.1:5269", help="its s2s port (local.server)")
    top.add_argument(
        "--gateway", default="127.0.0.1:5271", help="where its own streams go (local.listen)"
    )
    top.add_argument(
        "--websocket",
        action="store_true",
        help="instead, be a bare XEP-0468 endpoint: what a load process can do without a gateway",
    )
    top.add_argument(
        "--ca", type=Path, default=DIRECTORY, help="directory of the load test's authority"
    )
    return top


async def run(options: argparse.Namespace) -> None:
    """Serve until TERM or INT."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    authority = LoadAuthority(options.ca)
    pair = authority.issue(options.domain)
    behaviour = Behaviour()
    listen = _address(options.listen)
    if options.websocket:
        listener = WssListener(
            server_context(pair),
            authority.dialback_secret,
            lambda: frozenset((options.domain,)),
            BareEcho(behaviour).take,
            bidi=True,
        )
        await listener.start(listen)
        print(f"{options.domain} at wss://{options.listen}", flush=True)
        await stopped.wait()
        listener.stop()
    else:
        sink = Sink(
            options.domain,
            behaviour,
            server=server_context(pair),
            client=client_context(pair),
            gateway=_address(options.gateway),
        )
        await sink.start(listen)
        print(f"{options.domain} at {options.listen}", flush=True)
        await stopped.wait()
        await sink.stop()
        for reason, count in sink.lost.items():
            print(f"{count} streams to the gateway: {reason}", flush=True)
    for name, count in sorted(behaviour.received.items()):
        print(f"{count} {name}", flush=True)


def _address(text: str) -> tuple[str, int]:
    address = parse_address(text)
    return address.host, address.port


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    uvloop.run(run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
