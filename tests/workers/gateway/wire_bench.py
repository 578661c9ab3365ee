"""What the transport tests share: both loops, throw-away certificates, owners that write down."""

import asyncio
import functools
import inspect
import ssl
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from websockets.datastructures import Headers

from workers.gateway.certificates import KeyPair, parse_pair
from workers.gateway.channel import Channel

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on uvloop and on asyncio; it fails if the loop saw an exception nobody handled."""

    def run(runner: Callable[..., None], **fixtures: Any) -> None:
        async def watched() -> None:
            unhandled: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, seen: unhandled.append(seen))
            async with asyncio.timeout(20):
                await test(**fixtures)
            assert not unhandled

        runner(watched())

    functools.update_wrapper(run, test)
    del run.__dict__["__wrapped__"]
    names = ["runner", *inspect.signature(test).parameters]
    kind = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    mark = pytest.mark.parametrize("runner", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
    marked: Callable[..., None] = mark(run)
    return marked


def mint_pem(
    names: Sequence[str],
    *,
    usages: Sequence[x509.ObjectIdentifier] = (SERVER_AUTH,),
    days: float = 1,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    other_names: Sequence[x509.OtherName] = (),
) -> tuple[bytes, bytes]:
    """A certificate (self-signed without an issuer) and its key as PEM; serverAuth only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "none")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
    )
    if names or other_names:
        general = [x509.DNSName(name) for name in names]
        builder = builder.add_extension(
            x509.SubjectAlternativeName([*general, *other_names]), critical=False
        )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def mint(*names: str, **options: Any) -> KeyPair:
    return parse_pair(*mint_pem(names, **options))


def python_context(
    *, server: bool, pem: tuple[bytes, bytes] | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Python's own ssl as the independent peer; it checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if pem is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pair.pem")
            path.write_bytes(b"".join(pem))
            context.load_cert_chain(path)
    return context


class RecordingOwner:
    """A channel's owner that writes down what it is told; `wait_for` waits until it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.data = bytearray()
        self.reason: str | None = None
        self.channel: Channel | None = None
        self._changed = asyncio.Event()

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._changed.set()

    async def wait_for(self, what: str) -> None:
        while what not in self.told:
            self._changed.clear()
            await self._changed.wait()

    async def wait_for_data(self, size: int) -> bytes:
        while len(self.data) < size:
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.data)

    def connected(self) -> None:
        self._tell("connected")

    def tls_established(self) -> None:
        self._tell("tls_established")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._changed.set()

    def eof_received(self) -> None:
        self._tell("eof_received")

    def write_paused(self) -> None:
        self._tell("write_paused")

    def write_resumed(self) -> None:
        self._tell("write_resumed")

    def closed(self, reason: str | None) -> None:
        self.reason = reason
        self._tell("closed")


class RecordingWebSocketOwner:
    """A WebSocket's owner that writes down what it is told."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self.batches: list[int] = []
        self.order: list[str] = []
        self.headers = Headers()
        self._flow = asyncio.Event()

    async def wait_for(self, what: str) -> None:
        """Wait until the owner was told `paused` or `resumed`."""
        while what not in self.order:
            self._flow.clear()
            await self._flow.wait()

    def websocket_opened(self, headers: Headers) -> None:
        self.headers = headers

    def messages_received(self, messages: list[bytes]) -> None:
        self.batches.append(len(messages))
        self.order.append("messages")
        for message in messages:
            self.messages.put_nowait(message)

    def pong_received(self, payload: bytes) -> None:
        self.order.append("pong")
        self.pongs.put_nowait(payload)

    def write_paused(self) -> None:
        self.order.append("paused")
        self._flow.set()

    def write_resumed(self) -> None:
        self.order.append("resumed")
        self._flow.set()

    def websocket_closed(self, code: int, reason: str) -> None:
        self.closes.put_nowait((code, reason))
