"""Loopback proves nothing: without the local server's key a process gets nowhere."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.stage.addresses import LOCAL_PORT, S2S_PORT
from loadtest.stage.authority import KeyPair
from loadtest.stage.stage import CAPULET, MONTAGUE, Stage
from loadtest.stage.users import User
from tests.integration.conversation import talk, talk_again

STREAM = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
    "xmlns:stream='http://etherx.jabber.org/streams' from='{sender}' to='{target}' version='1.0'>"
)


async def read_until(reader: asyncio.StreamReader, *words: str, within: float = 12) -> str:
    """What arrives until one of the words, the end of the stream, or the time is over."""
    text = ""
    try:
        async with asyncio.timeout(within):
            while not any(word in text for word in words):
                data = await reader.read(65536)
                if not data:
                    break
                text += data.decode()
    except (TimeoutError, ConnectionError, ssl.SSLError):
        pass
    return text


class Impostor:
    """A local process that opens a stream to fedgate's local port as if it were the server."""

    def __init__(self, stage: Stage, sender: str, target: str, pair: KeyPair | None) -> None:
        self._address = stage.capulet_gateway.address
        self._names = {"sender": sender, "target": target}
        self._pair = pair
        self.seen = ""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Stream header, STARTTLS, stream header."""
        reader, writer = await asyncio.open_connection(self._address, LOCAL_PORT)
        writer.write(STREAM.format(**self._names).encode())
        self.seen += await read_until(reader, "</stream:features>", "</stream:stream>")
        writer.write(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        self.seen += await read_until(reader, "<proceed", "<failure", "</stream:stream>")
        if "<proceed" not in self.seen:
            return reader, writer
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self._pair is not None:
            context.load_cert_chain(self._pair.certificate, self._pair.key)
        try:
            await writer.start_tls(context)
            writer.write(STREAM.format(**self._names).encode())
            self.seen += await read_until(reader, "</stream:features>", "</stream:stream>")
        except (ConnectionError, ssl.SSLError) as exc:
            self.seen += f"[{exc}]"
        return reader, writer


@pytest.fixture(params=["no-certificate", "own-certificate", "certificate-of-another-domain"])
def pair(request: pytest.FixtureRequest, stage: Stage) -> KeyPair | None:
    """What a process without the server's key can show."""
    if request.param == "no-certificate":
        return None
    if request.param == "own-certificate":
        return stage.authority.issue(CAPULET, self_signed=True, server_auth_only=False)
    return stage.authority.issue("verona.example", server_auth_only=False)


@pytest.mark.parametrize("proof", ["none", "external", "dialback"])
async def test_a_process_without_the_key_cannot_send(
    stage: Stage, juliet: User, romeo: User, pair: KeyPair | None, proof: str
) -> None:
    await talk(juliet, romeo)
    impostor = Impostor(stage, CAPULET, MONTAGUE, pair)
    reader, writer = await impostor.open()
    if proof == "external":
        identity = base64.b64encode(CAPULET.encode()).decode()
        writer.write(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>"
            f"{identity}</auth>".encode()
        )
        impostor.seen += await read_until(reader, "<success", "<failure", "</stream:stream>")
    elif proof == "dialback":
        writer.write(
            f"<db:result from='{CAPULET}' to='{MONTAGUE}'>{'ab' * 32}</db:result>".encode()
        )
        impostor.seen += await read_until(reader, "db:result", "</stream:stream>")
    writer.write(
        f"<message from='{juliet.jid}' to='{romeo.jid}' type='chat' id='forged'>"
        "<body>a forged word</body></message>".encode()
    )
    impostor.seen += await read_until(reader, "</stream:stream>", within=3)
    writer.close()

    assert "<success" not in impostor.seen
    assert "type='valid'" not in impostor.seen
    await talk(juliet, romeo)
    assert not romeo.inbox.peek(lambda s: s.id == "forged")


@pytest_asyncio.fixture(loop_scope="session")
async def posing_server(stage: Stage) -> AsyncIterator[list[str]]:
    """Prosody is away and another process has taken its port, with a certificate of its own."""
    pair = stage.authority.issue(CAPULET, self_signed=True, server_auth_only=False)
    heard: list[str] = []
    await stage.capulet.stop()
    server = await asyncio.start_server(
        lambda reader, writer: _pose(reader, writer, pair, heard), stage.capulet.address, S2S_PORT
    )
    yield heard
    server.close()
    await server.wait_closed()
    await stage.capulet.start()


async def _pose(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: KeyPair, heard: list[str]
) -> None:
    """Accept everything, as somebody who wants to read other people's messages would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    header = STREAM.format(sender=CAPULET, target=MONTAGUE).replace(" version", " id='x' version")
    features = "<stream:features>{}</stream:features>"
    try:
        await read_until(reader, "<stream:stream")
        starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
        writer.write((header + features.format(starttls)).encode())
        await read_until(reader, "<starttls")
        writer.write(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        await writer.start_tls(context)
        heard.append(await read_until(reader, "<stream:stream"))
        external = "<mechanism>EXTERNAL</mechanism>"
        sasl = "urn:ietf:params:xml:ns:xmpp-sasl"
        mechanisms = f"<mechanisms xmlns='{sasl}'>{external}</mechanisms>"
        writer.write((header + features.format(mechanisms)).encode())
        heard.append(await read_until(reader, "</auth>"))
        writer.write(f"<success xmlns='{sasl}'/>".encode())
        heard.append(await read_until(reader, "<stream:stream"))
        writer.write((header + "<stream:features/>").encode())
        heard.append(await read_until(reader, "</message>"))
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def test_a_process_without_the_key_cannot_pose_as_the_server(
    stage: Stage, posing_server: list[str], romeo: User
) -> None:
    stanza_id = romeo.send(f"juliet@{CAPULET}", "for your eyes only")
    error = await romeo.error(stanza_id, within=60)
    assert error.condition in ("remote-server-timeout", "remote-server-not-found")
    assert not any("for your eyes only" in text for text in posing_server)


async def test_the_real_server_is_accepted_again(stage: Stage, romeo: User) -> None:
    juliet = await stage.login("juliet@capulet.example/balcony")
    await talk_again(juliet, romeo)
    await juliet.logout()
