"""`python -m loadtest.sink`: the local server behind a gateway under test, until TERM."""

import argparse
import asyncio
import os
import resource
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
from loadtest.sink.component import ComponentSink
from loadtest.sink.server import Sink
from loadtest.stage.processes import StageError
from workers.gateway.garbage import Garbage
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
        "--component",
        metavar="HOST:PORT",
        help="instead, be a component (XEP-0114) of a real server; its secret: FEDGATE_SINK_SECRET",
    )
    top.add_argument(
        "--ca", type=Path, default=DIRECTORY, help="directory of the load test's authority"
    )
    return top


async def run(options: argparse.Namespace) -> None:
    """Serve until TERM or INT. Raises `OSError`, `StageError`."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    behaviour = Behaviour()
    if options.component:
        await _be_component(options, behaviour, stopped)
    elif options.websocket:
        await _be_endpoint(options, behaviour, stopped)
    else:
        await _be_server(options, behaviour, stopped)
    for name, count in sorted(behaviour.received.items()):
        print(f"{count} {name}", flush=True)


async def _be_server(
    options: argparse.Namespace, behaviour: Behaviour, stopped: asyncio.Event
) -> None:
    pair = LoadAuthority(options.ca).issue(options.domain)
    sink = Sink(
        options.domain,
        behaviour,
        server=server_context(pair),
        client=client_context(pair),
        gateway=_address(options.gateway),
    )
    await sink.start(_address(options.listen))
    print(f"{options.domain} at {options.listen}", flush=True)
    await stopped.wait()
    await sink.stop()
    for reason, count in sink.lost.items():
        print(f"{count} streams to the gateway: {reason}", flush=True)


async def _be_endpoint(
    options: argparse.Namespace, behaviour: Behaviour, stopped: asyncio.Event
) -> None:
    authority = LoadAuthority(options.ca)
    listener = WssListener(
        server_context(authority.issue(options.domain)),
        authority.dialback_secret,
        lambda: frozenset((options.domain,)),
        BareEcho(behaviour).take,
        bidi=True,
    )
    await listener.start(_address(options.listen))
    print(f"{options.domain} at wss://{options.listen}", flush=True)
    await stopped.wait()
    listener.stop()


async def _be_component(
    options: argparse.Namespace, behaviour: Behaviour, stopped: asyncio.Event
) -> None:
    secret = os.environ.get("FEDGATE_SINK_SECRET", "")
    sink = ComponentSink(options.domain, behaviour, _address(options.component), secret)
    await sink.start()
    print(f"{options.domain} is a component of {options.component}", flush=True)
    await stopped.wait()
    sink.stop()


def _address(text: str) -> tuple[str, int]:
    address = parse_address(text)
    return address.host, address.port


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # Two streams for each remote domain.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Garbage().start()  # pauses of ours would count as the gateway's
    try:
        uvloop.run(run(options))
    except (OSError, StageError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
