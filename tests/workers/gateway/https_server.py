"""A real HTTPS server for tests, with a table of answers and a record of what was asked."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.workers.gateway.x509_matrix import Leaf

Writer = asyncio.StreamWriter
Answer = bytes | Callable[[Writer], Awaitable[None]]


def ok(body: bytes | dict[str, Any], *headers: str) -> bytes:
    """A complete response with status 200."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def status(code: int, *headers: str) -> bytes:
    """A complete response without a body."""
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Length: 0", *headers]).encode() + b"\r\n\r\n"


class HttpsServer:
    """`answers[(host, path)]`; anything else is 404."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.asked: list[str] = []
        self.heads: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self, address: str, port: int, leaf: Leaf, directory: Path) -> None:
        pem = directory / "https.pem"
        pem.write_bytes(leaf.pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        self._server = await asyncio.start_server(self._serve, address, port, ssl=context)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1]
            host = head.lower().partition("host: ")[2].partition("\r\n")[0]
            self.asked.append(f"{host}{path}")
            self.heads.append(head)
            answer = self.answers.get((host, path), status(404))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone: that is what some tests are about
        finally:
            writer.close()
