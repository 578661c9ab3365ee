"""Redis in all its shapes, as real processes on free loopback ports, for tests."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from coordinator.authority import Authority
from coordinator.embedded import find_server

START_TIMEOUT = 20.0


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A redis-server process with a configuration of its own."""

    def __init__(
        self, folder: Path, *lines: str, tls: bool = False, sentinel: bool = False
    ) -> None:
        self.port = free_port()
        self._folder = folder / f"redis-{self.port}"
        self._lines = [
            *(["port 0", f"tls-port {self.port}"] if tls else [f"port {self.port}"]),
            "bind 127.0.0.1",
            f"dir {self._folder}",
            *lines,
        ]
        self._flags = ["--sentinel"] if sentinel else []
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; on return it takes connections."""
        self._folder.mkdir()
        file = self._folder / "redis.conf"
        file.write_text("\n".join(self._lines))
        self._process = await asyncio.create_subprocess_exec(
            *(find_server(), str(file), *self._flags), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def _running(*servers: Server) -> AsyncIterator[None]:
    try:
        for server in servers:
            await server.start()
        yield
    finally:
        for server in servers:
            await server.kill()


@contextlib.asynccontextmanager
async def with_password(folder: Path) -> AsyncIterator[str]:
    """One server with a user who may do what fedgate does with its own keys, and no other user."""
    (folder / "acl").write_text(
        "user default off\n"
        "user gate on >s3cr3t/% ~fedgate:* ~{fedgate}:* -@all "
        "+@read +@write +@scripting +@connection +time\n"
    )
    server = Server(folder, f"aclfile {folder / 'acl'}")
    async with _running(server):
        yield f"redis://gate:s3cr3t%2F%25@127.0.0.1:{server.port}"


@contextlib.asynccontextmanager
async def with_tls(folder: Path) -> AsyncIterator[str]:
    """One server with a certificate of a private CA, which asks for one of its clients too."""
    leaf = Authority(folder).issue("localhost")
    (folder / "leaf.pem").write_bytes(leaf.certificate_pem)
    (folder / "leaf.key").write_bytes(leaf.key_pem)
    server = Server(
        folder,
        f"tls-cert-file {folder / 'leaf.pem'}",
        f"tls-key-file {folder / 'leaf.key'}",
        f"tls-ca-cert-file {folder / 'ca.pem'}",
        tls=True,
    )
    files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "leaf.pem", "ssl_keyfile": "leaf.key"}
    query = "&".join(f"{name}={folder / file}" for name, file in files.items())
    async with _running(server):
        yield f"rediss://localhost:{server.port}?{query}"


@contextlib.asynccontextmanager
async def with_sentinel(folder: Path) -> AsyncIterator[tuple[str, Server]]:
    """A master, which may be killed, and a replica under a Sentinel. Passwords everywhere."""
    login = ("requirepass s3cr3t", "masterauth s3cr3t")
    master = Server(folder, *login)
    replica = Server(folder, *login, f"replicaof 127.0.0.1 {master.port}")
    sentinel = Server(
        folder,
        f"sentinel monitor main 127.0.0.1 {master.port} 1",
        "sentinel auth-pass main s3cr3t",
        "sentinel down-after-milliseconds main 300",
        "sentinel failover-timeout main 1000",
        "requirepass other",
        sentinel=True,
    )
    async with _running(master, replica, sentinel):
        url = f"redis+sentinel://:s3cr3t@127.0.0.1:{sentinel.port}/main?sentinel_password=other"
        yield url, master


@contextlib.asynccontextmanager
async def with_cluster(folder: Path) -> AsyncIterator[str]:
    """Three masters that share the slots."""
    servers = [
        Server(folder, "cluster-enabled yes", f"cluster-port {free_port()}") for _ in range(3)
    ]
    async with _running(*servers):
        hosts = [f"127.0.0.1:{server.port}" for server in servers]
        said = await _ask("--cluster", "create", *hosts, "--cluster-yes")
        assert b"All 16384 slots covered" in said, said
        async with asyncio.timeout(START_TIMEOUT):
            for server in servers:  # each learns by itself that the others are there
                info = ("-p", str(server.port), "cluster", "info")
                while b"cluster_state:ok" not in await _ask(*info):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.02)
        yield f"redis+cluster://{','.join(hosts)}"


async def _ask(*arguments: str) -> bytes:
    """What redis-cli says."""
    asked = await asyncio.create_subprocess_exec(
        *("redis-cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asked.communicate()
    return said
