"""Streams whose owner lives on another machine: passed through to that machine's local port.

A line before the first byte of the stream says that it comes from another gateway, and for which it
is meant: it is served there whatever happens, and never passed on to a third. The line proves
nothing and permits nothing; the stream behind it is authenticated like any other.
"""

import asyncio
import contextlib
import socket

from coordinator.address import parse_address
from workers.gateway.native import NativeFailed, Splice, greet, splice
from workers.gateway.peek import PeekFailed, wait_readable

CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 15.0
"""Seconds until the other machine answers the stream header: it opens the wss session before."""
SILENT_SECONDS = 3
"""A machine that acknowledges no byte and no probe for so long is gone."""

_GREETING = b"fedgate-splice "
_MAX_GREETING = 300
_RECHECK_INTERVAL = 0.02


async def splice_to_gateway(sock: socket.socket, address: str, gateway: str) -> Splice:
    """Pass a stream that was only peeked at through to `gateway`, whose local port is `address`.

    Raises `NativeFailed`; then nothing was taken from `sock`. Raises OSError when one of the two
    broke after the first answer; both are closed then.
    """
    remote = await _connect(address)
    try:
        await asyncio.get_running_loop().sock_sendall(remote, _GREETING + gateway.encode() + b"\n")
        await greet(sock, remote, timeout=ANSWER_TIMEOUT)
    except OSError as exc:
        remote.close()
        raise NativeFailed(resolved=True, reason=f"connection lost: {exc.strerror}") from None
    except BaseException:
        remote.close()
        raise
    spliced = await splice(sock, remote)
    _watch_closely(remote)
    return spliced


def _watch_closely(remote: socket.socket) -> None:
    """Notice within seconds that the machine is gone.

    Until then the local server's stanzas go nowhere, and one without XEP-0198 sends them only once.
    """
    with contextlib.suppress(OSError):  # it broke in this moment: the splice tells
        remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENT_SECONDS)
        remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)


async def _connect(address: str) -> socket.socket:
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    sock = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            sock = socket.socket(found[0][0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            await loop.sock_connect(sock, found[0][4])
    except (OSError, TimeoutError) as exc:
        if sock is not None:
            sock.close()
        raise NativeFailed(
            resolved=True, reason=f"{address} cannot be reached: {str(exc) or 'no answer in time'}"
        ) from None
    return sock


async def take_greeting(sock: socket.socket, gateway: str, *, timeout: float = 10.0) -> bool:
    """Tell whether another gateway passes this stream to us, and take its line off the stream.

    Nothing is taken from any other stream. Raises `PeekFailed` if it is meant for somebody else.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _take_greeting(sock, gateway)
    except TimeoutError:
        raise PeekFailed(f"no stream header within {timeout:g} s") from None
    except OSError as exc:
        raise PeekFailed(f"connection lost before the stream header: {exc.strerror}") from None


async def _take_greeting(sock: socket.socket, gateway: str) -> bool:
    while True:
        await wait_readable(sock)
        try:
            data = sock.recv(_MAX_GREETING, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not data or not data.startswith(_GREETING[: len(data)]):
            return False
        line, newline, _ = data.partition(b"\n")
        if newline:
            break
        if len(data) >= _MAX_GREETING:
            raise PeekFailed("a gateway's greeting without an end")
        await asyncio.sleep(_RECHECK_INTERVAL)  # the peeked bytes keep it readable
    named = line.removeprefix(_GREETING).decode("utf-8", "replace")
    if named != gateway:
        raise PeekFailed(f"a stream for gateway {named!r} came to {gateway!r}")
    sock.recv(len(line) + 1)
    return True
