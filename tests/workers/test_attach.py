import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from coordinator.address import Address
from coordinator.certificates import load_pair
from coordinator.config import Config, Gateway, Local
from coordinator.exits import ExitCode
from coordinator.pins import key_digest
from tests.coordinator.pem import write_pair
from workers.attach import KeyNotRead, main, read_key, read_keys

HEADER = b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'>"
FEATURES = b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>"
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"

Speaker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(speak: Speaker) -> tuple[asyncio.Server, Address]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await speak(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the reader of keys hangs up as soon as it has seen the key
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    return server, Address(*server.sockets[0].getsockname())


def says(*texts: bytes) -> Speaker:
    """A server that answers whatever comes with the next of these texts, and then hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for text in texts:
            await reader.read(4096)
            writer.write(text)
        writer.write_eof()
        await reader.read()

    return speak


def with_tls(context: ssl.SSLContext) -> Speaker:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b'to="capulet.example"' in await reader.readuntil(b"version='1.0'>")
        writer.write(HEADER + FEATURES)
        await reader.readuntil(b"/>")
        writer.write(PROCEED)
        await writer.start_tls(context)
        await reader.read()

    return speak


async def test_the_key_is_that_of_the_certificate_behind_starttls(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "capulet.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    expected = key_digest(load_pair(pair))
    server, address = await serve(with_tls(context))
    async with server:
        assert await read_key(address, "capulet.example") == expected

        config = Config(
            gateway=Gateway(domains=("capulet.example",)), local=Local(server=str(address))
        )
        assert await read_keys(config) == {"keys": {"capulet.example": expected}, "failures": {}}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((HEADER + b"<stream:error><host-unknown xmlns='x'/>",), "refused a.example with host-un"),
        (
            (HEADER + FEATURES, b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            "offers no TLS",
        ),
        ((b"",), "closed the connection when asked for a.example"),
        ((b"x" * 20000,), "sent no XMPP stream"),
    ],
)
async def test_a_server_without_a_key_is_told_by_its_reason(
    texts: tuple[bytes, ...], told: str
) -> None:
    server, address = await serve(says(*texts))
    async with server:
        with pytest.raises(KeyNotRead, match=told):
            await read_key(address, "a.example")


async def test_what_is_no_tls_is_a_failure_of_that_domain_alone() -> None:
    server, address = await serve(says(HEADER + FEATURES, PROCEED, b"hello, this is no TLS\r\n"))
    async with server:
        config = Config(
            gateway=Gateway(domains=("a.example", "b.example")),
            local=Local(server={"a.example": str(address), "b.example": "127.0.0.1:1"}),
        )

        answer = await read_keys(config)

    assert answer["keys"] == {}
    assert str(address) in answer["failures"]["a.example"]
    assert answer["failures"]["b.example"] == "127.0.0.1:1: Connection refused"


async def test_components_have_no_key_to_read() -> None:
    config = Config(
        gateway=Gateway(domains=("a.example",)),
        local=Local(attach="component", server="127.0.0.1:1"),
    )

    assert await read_keys(config) == {"keys": {}, "failures": {}}


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr("workers.attach.TIMEOUT", 0.05)
    server, address = await serve(silence)
    async with server:
        config = Config(gateway=Gateway(domains=("a.example",)), local=Local(server=str(address)))

        answer = await read_keys(config)

    assert answer["failures"] == {"a.example": f"{address} did not answer within 0.05 s"}


def test_the_program_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fedgate.toml"
    file.write_text('[gateway]\ndomains = "a.example"\n[local]\nserver = "127.0.0.1:1"')

    assert main(["--config", str(file)]) == ExitCode.OK

    answer = json.loads(capsys.readouterr().out)
    assert answer == {"keys": {}, "failures": {"a.example": "127.0.0.1:1: Connection refused"}}


def test_a_wrong_configuration_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "/none.toml"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.startswith("fedgate: cannot read /none.toml")
