"""TCP to whichever of a host's addresses answers first (RFC 8305, in small)."""

import asyncio
import os
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType, start_connection

STAGGER = 0.25  # seconds until the next address is tried beside the one before (RFC 8305 §5)


class NotConnected(Exception):
    """No address accepted. `reason` is one clear line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def connect_any(
    addresses: Sequence[str], port: int, *, timeout: float
) -> tuple[str, socket.socket]:
    """The address that accepted, and a connected, non-blocking socket without a transport.

    `addresses` are literals that may be connected to, at least one: nothing is resolved here. IPv4
    and IPv6 take turns. Raises `NotConnected` after at most `timeout` seconds.
    """
    made: dict[socket.socket, str] = {}

    def make(info: AddrInfoType) -> socket.socket:
        sock = socket.socket(info[0], info[1], info[2])
        made[sock] = str(info[4][0])
        return sock

    infos: list[AddrInfoType] = [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, port),
        )
        for address in addresses
    ]
    try:
        async with asyncio.timeout(timeout):
            sock = await start_connection(
                infos, happy_eyeballs_delay=STAGGER, interleave=1, socket_factory=make
            )
            return made[sock], sock
    except TimeoutError:
        raise NotConnected(f"no answer within {timeout:.3g} s") from None
    except OSError as exc:
        raise NotConnected(os.strerror(exc.errno) if exc.errno else str(exc)[:300]) from None
