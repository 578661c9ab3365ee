"""`make autobahn`: our WebSocket transport in both roles against Autobahn|Testsuite (RFC 6455).

The suite needs Python 2.7, which Debian 12 does not have: PYTHON27 names one, else `python2.7` is
looked for on PATH and among pyenv's. What follows from the same rules for streams is tested without
it, in tests/integration/test_websocket_rules.py.
"""

import argparse
import asyncio
import contextlib
import glob
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from workers.gateway.channel import Channel
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.websocket import SUBPROTOCOL, WebSocket
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint
from workers.gateway.websocket_connect import ConnectedWebSocket

VERSION = "25.10.1"
HOME = Path(".autobahn")
AGENT = "fedgate"
# Limits and speed, which are ours to choose, and compression, which we never agree on.
EXCLUDED = ["9.*", "12.*", "13.*"]
CASE_TIMEOUT = 30.0
_BINARY = "a binary message is refused with 1003: XMPP is text (RFC 7395 §3.2)"
DEVIATIONS: dict[str, dict[str, str]] = {
    "accepting": {f"1.2.{number}": _BINARY for number in range(1, 9)},
    "connecting": {f"1.2.{number}": _BINARY for number in range(1, 9)},
}
"""Cases that must not pass, by role, and why."""


class SuiteFailed(Exception):
    """The suite could not be run; one line with the cause."""


class Echo:
    """Sends every message back; like a session it ends what is no UTF-8 with 1007."""

    def __init__(self) -> None:
        self.websocket: WebSocket | None = None
        self.closed = asyncio.Event()
        self._early: list[bytes] = []

    def attach(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        early, self._early = self._early, []
        self.messages_received(early)

    def websocket_opened(self, headers: Headers) -> None: ...

    def messages_received(self, messages: list[bytes]) -> None:
        if self.websocket is None:
            self._early += messages
            return
        for message in messages:
            try:
                message.decode()
            except UnicodeDecodeError:
                self.websocket.close(1007)
                return
            self.websocket.send_messages([message])

    def pong_received(self, payload: bytes) -> None: ...

    def write_paused(self) -> None: ...

    def write_resumed(self) -> None: ...

    def websocket_closed(self, code: int, reason: str) -> None:
        self.closed.set()


class _Accepted(AcceptedWebSocket):
    """The suite speaks no subprotocol, and refuses a server that selects one."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._protocol = self._server = ServerProtocol(max_size=endpoint.max_message)


class _Client(ClientProtocol):
    def process_subprotocol(self, headers: Headers) -> Subprotocol | None:
        return Subprotocol(SUBPROTOCOL)  # as if the suite had selected it


async def connect(url: str) -> None:
    """Open a WebSocket to the suite, echo, and wait for its end."""
    uri, echo = parse_uri(url), Echo()
    protocol = _Client(uri, max_size=1 << 24)
    websocket = ConnectedWebSocket(
        protocol, echo, start=_no_tls, verify=_no_tls, headers={"User-Agent": AGENT}
    )
    async with asyncio.timeout(CASE_TIMEOUT):
        await asyncio.get_running_loop().create_connection(
            lambda: websocket.channel, uri.host, uri.port
        )
        await websocket.wait_opened()
        echo.attach(websocket)
        await echo.closed.wait()


def _no_tls(_channel: Channel) -> None: ...


# The suite, in processes of its own.


def find_python() -> str:
    """A Python 2.7. Raises `SuiteFailed`."""
    named = os.environ.get("PYTHON27")
    pyenv = os.path.expanduser("~/.pyenv/versions/2.7.*/bin/python2.7")
    for candidate in [named] if named else [shutil.which("python2.7"), *glob.glob(pyenv)]:
        # A shim of pyenv is there and fails when no 2.7 is chosen.
        if candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return candidate
    raise SuiteFailed("there is no Python 2.7; name one in PYTHON27")


def install(python: str) -> None:
    """Put the suite into `HOME`, once. Raises `SuiteFailed`."""
    mark = HOME / f".installed-{VERSION}"
    if mark.exists():
        return
    command = [python, "-m", "pip", "install", "-q", "--target", str(HOME / "site")]
    done = subprocess.run([*command, f"autobahntestsuite=={VERSION}"], capture_output=True)
    if done.returncode:
        raise SuiteFailed(f"pip: {done.stderr.decode().strip().splitlines()[-1]}")
    mark.touch()


@contextlib.asynccontextmanager
async def suite(
    python: str, mode: str, spec: dict[str, Any]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The suite's own process; ended at the end."""
    path = HOME / f"{mode}.json"
    path.write_text(json.dumps(spec))
    # addsitedir honours the .pth file that makes zope a namespace.
    code = (
        f"import site, sys; site.addsitedir({str((HOME / 'site').absolute())!r}); "
        "from autobahntestsuite.wstest import run; run()"
    )
    with (HOME / f"{mode}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(python, "-c", code, "-m", mode, "-s", str(path)), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


def _spec(role: str, cases: list[str], **more: Any) -> dict[str, Any]:
    out = HOME / role
    shutil.rmtree(out, ignore_errors=True)
    return {"outdir": str(out), "cases": cases, "exclude-cases": EXCLUDED, **more}


async def run_accepting(python: str, cases: list[str]) -> None:
    """The suite connects to us."""

    def new_owner(websocket: AcceptedWebSocket) -> Echo:
        echo = Echo()
        echo.attach(websocket)
        return echo

    endpoint = Endpoint(
        path="/",
        new_owner=new_owner,
        context=None,
        proxies=TrustedProxies(("127.0.0.1/32",)),
        max_message=1 << 24,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Accepted(endpoint).channel, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/"}]
    spec = _spec("accepting", cases, servers=servers, options={"failByDrop": False})
    async with suite(python, "fuzzingclient", spec) as process:
        await process.wait()
    server.close()


async def run_connecting(python: str, cases: list[str]) -> None:
    """We connect to the suite, once for each case."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    spec = _spec("connecting", cases, url=url, options={"failByDrop": False}, webport=0)
    async with suite(python, "fuzzingserver", spec) as process:
        await _wait_for_port(port, process)
        count = await _ask_count(url)
        for number in range(1, count + 1):
            with contextlib.suppress(TimeoutError):
                await connect(f"{url}/runCase?case={number}&agent={AGENT}")
        await connect(f"{url}/updateReports?agent={AGENT}")


async def _ask_count(url: str) -> int:
    """The suite's answer to /getCaseCount is a message, which we echo, and it does not mind."""
    counts: list[bytes] = []

    class Asking(Echo):
        def messages_received(self, messages: list[bytes]) -> None:
            counts.extend(messages)

    uri, echo = parse_uri(f"{url}/getCaseCount"), Asking()
    websocket = ConnectedWebSocket(_Client(uri), echo, start=_no_tls, verify=_no_tls, headers={})
    async with asyncio.timeout(CASE_TIMEOUT):
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: websocket.channel, uri.host, uri.port)
        await websocket.wait_opened()
        await echo.closed.wait()
    return int(counts[0])


async def _wait_for_port(port: int, process: asyncio.subprocess.Process) -> None:
    for _ in range(300):
        if process.returncode is not None:
            raise SuiteFailed(f"the suite ended; see {HOME}/fuzzingserver.log")
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.1)
    raise SuiteFailed("the suite does not listen")


# What came out.

ROLES: dict[str, Callable[[str, list[str]], Any]] = {
    "accepting": run_accepting,
    "connecting": run_connecting,
}


def read_results(role: str) -> dict[str, str]:
    """The suite's verdict by case; FAILED, too, if only the end of the connection was wrong."""
    path = HOME / role / "index.json"
    if not path.exists():
        raise SuiteFailed(f"the suite has written no report; see the logs in {HOME}")
    verdicts = {}
    for case, each in json.loads(path.read_text())[AGENT].items():
        is_failed = "FAILED" in (each["behavior"], each["behaviorClose"])
        verdicts[case] = "FAILED" if is_failed else each["behavior"]
    return verdicts


def unexpected(role: str, results: dict[str, str]) -> list[str]:
    """One line for each case that is not as it should be."""
    deviations = DEVIATIONS[role]
    lines = []
    for case, verdict in results.items():
        if verdict == "FAILED" and case not in deviations:
            lines.append(f"{role} {case} failed; see {HOME}/{role}/index.html")
        elif verdict != "FAILED" and case in deviations:
            lines.append(f"{role} {case} passes, but is listed as a deviation")
    return lines


def show(results: dict[str, dict[str, str]]) -> None:
    """The table, and why cases fail that are meant to."""
    table = Table("role", "cases", "OK", "non-strict", "informational", "deviations", "FAILED")
    for role, verdicts in results.items():
        counts = Counter(verdicts.values())
        meant = sum(verdicts[case] == "FAILED" for case in DEVIATIONS[role] if case in verdicts)
        row = (len(verdicts), counts["OK"], counts["NON-STRICT"], counts["INFORMATIONAL"])
        table.add_row(role, *map(str, (*row, meant, counts["FAILED"] - meant)))
    console = Console(width=100)
    console.print(table)
    for role, verdicts in results.items():
        for case, reason in DEVIATIONS[role].items():
            if case in verdicts:
                console.print(f"{role} {case}: {reason}")


def run(roles: list[str], cases: list[str]) -> int:
    """Run and report; 1 if something is not as it should be. Raises `SuiteFailed`."""
    python = find_python()
    HOME.mkdir(exist_ok=True)
    install(python)
    results = {}
    for role in roles:
        uvloop.run(ROLES[role](python, cases))
        results[role] = read_results(role)
    show(results)
    lines = [line for role, verdicts in results.items() for line in unexpected(role, verdicts)]
    print("\n".join(lines) if lines else "as it should be")
    return 1 if lines else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.autobahn", description=__doc__)
    parser.add_argument("--role", choices=tuple(ROLES), action="append", help="default: both")
    parser.add_argument("cases", nargs="*", default=["*"], help="such as 6.* 7.5.1; default: all")
    arguments = parser.parse_args(argv)
    try:
        return run(arguments.role or list(ROLES), arguments.cases)
    except SuiteFailed as exc:
        print(f"autobahn: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
