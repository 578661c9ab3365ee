"""nginx, HAProxy and Caddy as Debian packages them, each with the file that is shipped for it.

Traefik, which Debian does not have, is played by a stub that sends what Traefik would.
"""

import asyncio
import base64
import contextlib
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import WebSocket
from coordinator.configfile import from_table
from loadtest.stage.authority import KeyPair
from loadtest.stage.processes import StageError, StageProcess

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = {
    "nginx": "nginx.conf",
    "nginx-stream": "nginx-stream.conf",
    "haproxy": "haproxy.cfg",
    "haproxy-tcp": "haproxy-tcp.cfg",
    "caddy": "Caddyfile",
    "traefik": "traefik.yaml",
}
REAL = [kind for kind in FILES if kind != "traefik"]
PASS_THROUGH = ("nginx-stream", "haproxy-tcp")
_NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ }}
{context} {{
    {more}
    proxy_bind {address};
    include {directory}/shipped.conf;
}}
"""
# The stage has its own authority, and nobody to answer on port 80.
_CADDY = "{\n\tadmin off\n\tauto_https off\n}\n"


def told(kind: str) -> WebSocket:
    """What the comment of a shipped file says to write into fedgate.toml."""
    lines = (DEPLOY / FILES[kind]).read_text().splitlines()
    inside = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    table = tomllib.loads("\n".join(['gateway.domains = ["example.org"]', *inside]))
    return from_table(table, Path("/etc/fedgate")).websocket


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy listens and what for, and whom it connects to. It calls from `address`."""

    address: str
    port: int
    host: str
    pair: KeyPair
    upstream: str


class Front:
    """One proxy; `kind` is one of `REAL`. Raises `StageError` when its own tool finds fault."""

    def __init__(self, kind: str, directory: Path, place: Place) -> None:
        directory.mkdir()
        self.kind = kind
        self.place = place
        self._directory = directory
        # Each name and address of the shipped file is replaced where it stands.
        self._text = (DEPLOY / FILES[kind]).read_text()
        self._replace("127.0.0.1:5292", place.upstream)
        self._text = self._text.replace("gw.example.org", place.host)
        program, check, run = self._write()
        self._check = [program, *check]
        self.process = StageProcess(
            kind,
            [program, *run],
            directory / "log",
            directory=directory,
            environment={"XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)},
        )

    async def start(self) -> None:
        check = await asyncio.create_subprocess_exec(
            *self._check, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await check.communicate()
        if check.returncode:
            raise StageError(f"{' '.join(self._check)}:\n{output.decode()}")
        self.process.start()
        await self.process.wait_for_port(self.place.address, self.place.port)

    async def stop(self) -> None:
        await self.process.stop(within=5)

    def _write(self) -> tuple[str, list[str], list[str]]:
        """Write the configuration; returns the program, its check and its run."""
        place, directory = self.place, self._directory
        if self.kind.startswith("nginx"):
            return self._write_nginx("stream" if self.kind == "nginx-stream" else "http")
        if self.kind == "caddy":
            self._replace("tls {", f"tls {place.pair.certificate} {place.pair.key} {{")
            self._replace(
                f"{place.host} {{", f"https://{place.host}:{place.port} {{\n\tbind {place.address}"
            )
            path = self._put("Caddyfile", _CADDY + self._text)
            options = ["--adapter", "caddyfile", "--config", path]
            return "/usr/bin/caddy", ["validate", *options], ["run", *options]
        if self.kind == "haproxy":
            both = place.pair.certificate.read_text() + place.pair.key.read_text()
            (directory / "certs").mkdir()
            self._put("certs/host.pem", both)
            self._replace("/etc/haproxy/certs/", f"{directory}/certs/")
        self._replace("bind :443", f"bind {place.address}:{place.port}")
        self._replace(
            f"fedgate {place.upstream}", f"fedgate {place.upstream} source {place.address}"
        )
        path = self._put("haproxy.cfg", self._text)
        return "/usr/sbin/haproxy", ["-c", "-f", path], ["-db", "-f", path]

    def _write_nginx(self, context: str) -> tuple[str, list[str], list[str]]:
        place = self.place
        self._replace("listen 443", f"listen {place.address}:{place.port}")
        if context == "http":
            live = f"/etc/letsencrypt/live/{place.host}/"
            self._replace(live + "fullchain.pem", str(place.pair.certificate))
            self._replace(live + "privkey.pem", str(place.pair.key))
        self._put("shipped.conf", self._text)
        more = "access_log off;" if context == "http" else ""
        values = {"context": context, "more": more, "address": place.address}
        path = self._put("nginx.conf", _NGINX.format(directory=self._directory, **values))
        options = ["-p", str(self._directory), "-c", path]
        return "/usr/sbin/nginx", [*options, "-t"], options

    def _put(self, name: str, text: str) -> str:
        path = self._directory / name
        path.write_text(text)
        return str(path)

    def _replace(self, old: str, new: str) -> None:
        """Outside of comments. Raises `AssertionError` unless it is there."""
        lines = self._text.splitlines(keepends=True)
        code = [number for number, line in enumerate(lines) if line.lstrip()[:1] != "#"]
        found = [number for number in code if old in lines[number]]
        assert found, f"{FILES[self.kind]} has no {old!r}"
        for number in found:
            lines[number] = lines[number].replace(old, new)
        self._text = "".join(lines)


class TraefikStub:
    """Ends TLS and hands each connection on, with the leaf in Traefik's header.

    Its TLS is Python's: it refuses certificates that are for servers only, as Traefik does not.
    """

    def __init__(self, place: Place, trust: Path) -> None:
        self.kind = "traefik"
        self.place = place
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(trust))
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._context.load_cert_chain(place.pair.certificate, place.pair.key)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        place = self.place
        self._server = await asyncio.start_server(
            self._serve, place.address, place.port, ssl=self._context
        )

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self.place.upstream.partition(":")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            far_reader, far_writer = await asyncio.open_connection(
                host, int(port), local_addr=(self.place.address, 0)
            )
            far_writer.write(self._with_headers(head, writer))
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    def _with_headers(self, head: bytes, writer: asyncio.StreamWriter) -> bytes:
        lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"x-forwarded-")]
        kept.append(b"X-Forwarded-For: " + writer.get_extra_info("peername")[0].encode())
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if leaf:
            kept.append(b"X-Forwarded-Tls-Client-Cert: " + base64.b64encode(leaf))
        return b"\r\n".join([*kept, b"", b""])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
