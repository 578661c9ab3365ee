"""The control socket's wire: a 4-byte big-endian length, then one tagged message in JSON.

Workers say Hello and get Welcome; then each side sends when it has something to say. The command
line uses the same socket for one Order and its Reply. Mode 0600 is its authentication.
"""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any, Literal

import msgspec

MAX_MESSAGE_BYTES = 16 * 1024 * 1024


class ControlProtocolError(Exception):
    """The other side of the control socket sent what is no message of ours."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Worker: who I am; the first message of each connection."""

    worker: str
    pid: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Coordinator: the answer to Hello."""

    dialback_secret: bytes


class LeafRequest(msgspec.Struct, frozen=True, tag="leaf-request"):
    """Worker: a certificate, please, to speak as remote `domain` towards the local server.

    `purpose` is "route" (the worker carries a stream to that domain) or "session" (the domain
    has authenticated to the worker).
    """

    request: int
    domain: str
    purpose: str


class LeafIssued(msgspec.Struct, frozen=True, tag="leaf"):
    """Coordinator: the certificate; `not_after` in Unix time."""

    request: int
    certificate_pem: bytes
    key_pem: bytes
    not_after: float


class LeafRefused(msgspec.Struct, frozen=True, tag="leaf-refused"):
    """Coordinator: no certificate, and why."""

    request: int
    reason: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Worker: what it does at the moment, each second; shown under /api."""

    snapshot: dict[str, Any]


class Command(msgspec.Struct, frozen=True, tag="command"):
    """Coordinator: do this. After "drain" the worker exits 0 once nothing is in flight."""

    verb: Literal["drain", "stop", "reload"]


class Request(msgspec.Struct, frozen=True, tag="request"):
    """Coordinator: answer this.

    "sessions": describe them, at most as many as `argument` says ("": all). "close", "reconnect",
    "ping": do so with those of the domain in `argument` ("": of all domains).
    """

    request: int
    verb: str
    argument: str = ""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Worker: the answer to a Request, one record per session."""

    request: int
    rows: list[dict[str, Any]]


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Command line: a verb of orders.py; `argument`: a worker's slot or id, or a domain."""

    verb: str
    argument: str = ""


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """Coordinator: what became of the order, one line of text."""

    ok: bool
    text: str


Message = (
    Hello
    | Welcome
    | LeafRequest
    | LeafIssued
    | LeafRefused
    | Report
    | Command
    | Request
    | Answer
    | Order
    | Reply
)

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def socket_path(state_dir: str | Path) -> Path:
    """Where the coordinator of this state directory listens."""
    return Path(state_dir) / "run" / "coordinator.sock"


def encode(message: Message) -> bytes:
    """One message as it goes over the socket."""
    data = msgspec.json.encode(message)
    return struct.pack("!I", len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Read one message. Raises IncompleteReadError at the end, ControlProtocolError, OSError."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    return _decode(length, await reader.readexactly(_checked(length)))


def ask(path: Path, order: Order, *, timeout: float = 5.0) -> Reply:
    """Send one order to the coordinator and wait for its reply (blocking: for the command line).

    Raises OSError when no coordinator listens or it does not answer in time, ControlProtocolError.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(encode(order))
        with connection.makefile("rb") as stream:
            head = stream.read(4)
            if len(head) < 4:
                raise ControlProtocolError("the coordinator closed the connection without a reply")
            (length,) = struct.unpack("!I", head)
            reply = _decode(length, stream.read(_checked(length)))
    if not isinstance(reply, Reply):
        raise ControlProtocolError(f"expected a reply, got {type(reply).__name__}")
    return reply


def _checked(length: int) -> int:
    if length > MAX_MESSAGE_BYTES:
        raise ControlProtocolError(
            f"message of {length} bytes, at most {MAX_MESSAGE_BYTES} allowed"
        )
    return length


def _decode(length: int, data: bytes) -> Message:
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise ControlProtocolError(f"not a message of {length} bytes: {exc}") from exc
