"""Listening sockets that tell when somebody waits, and can be left alone for a while."""

import asyncio
import socket
from collections.abc import Callable


class Listening:
    """`accept(sock)` is called in each turn of the loop in which somebody waits at a socket."""

    def __init__(self, accept: Callable[[socket.socket], None]) -> None:
        self._accept = accept
        self._sockets: list[socket.socket] = []

    def start(self, sockets: list[socket.socket]) -> None:
        """Sockets that are bound and listen; other workers may accept on the same."""
        for sock in sockets:
            sock.setblocking(False)
            self._sockets.append(sock)
            self._watch(sock)

    def rest(self, sock: socket.socket, seconds: float) -> None:
        """Do not look at a socket for so long: it stays readable, and would make a busy loop."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(seconds, self._watch, sock)

    def stop(self) -> None:
        """Close them: accept nothing more."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)
