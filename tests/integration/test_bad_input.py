"""What the public port refuses: the stream error the protocol names, and nothing gets through."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from websockets.frames import Opcode

from loadtest.stage.peers import FRAMING, FRAMING_CLIENT, STREAMS, XmppProxyPeer
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed, dial, tls_context

VERONA = "verona.example"
OPEN = f"<open xmlns='{FRAMING}' from='{VERONA}' to='{CAPULET}' version='1.0'/>"
# More than an element may have before authentication, and than a stanza may have after it.
BEFORE, AFTER = 9000, 270_000


@dataclass
class Ending:
    """How the gateway ended a connection: its last messages and the code of its Close frame."""

    code: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def condition(self) -> str:
        """The stream error before `<close/>`, "" without one."""
        errors = [text for text in self.messages if "urn:ietf:params:xml:ns:xmpp-streams" in text]
        return errors[-1].partition("<")[2].partition("<")[2].split()[0] if errors else ""


async def ending(wire: Wire) -> Ending:
    """Read up to the end, which has to come by itself."""
    result = Ending()
    try:
        while True:
            result.messages.append(await wire.receive(15))
    except WireClosed as closed:
        result.code = closed.code
    return result


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(stage: Stage) -> AsyncIterator[Wire]:
    """A WebSocket to capulet's gateway on which nothing was said yet."""
    gateway = stage.capulet_gateway
    pair = stage.authority.issue(VERONA)
    wire = await dial(f"wss://{CAPULET}/xmpp-s2s", gateway.address, tls_context(pair))
    yield wire
    wire.end()


@pytest_asyncio.fixture(loop_scope="session")
async def guest(stage: Stage) -> AsyncIterator[Wire]:
    """A WebSocket that verona.example has authenticated."""
    peer = XmppProxyPeer(VERONA, stage.actor_address(130), stage.authority.issue(VERONA))
    address = stage.capulet_gateway.address
    yield await peer.connect(f"wss://{CAPULET}/xmpp-s2s", address, CAPULET)
    await peer.stop()


def message(to: str, body: str, sender: str = f"paris@{VERONA}", ns: str = "jabber:server") -> str:
    return f"<message xmlns='{ns}' from='{sender}' to='{to}' id='bad'><body>{body}</body></message>"


async def expect_nothing_arrived(juliet: User) -> None:
    """A later message in the order of delivery proves that an earlier one is not on its way."""
    juliet.send(juliet.jid, "is anybody there?")
    await juliet.message("is anybody there?")
    assert not juliet.inbox.peek(lambda s: VERONA in s.sender or s.body == "evil")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (f"<open xmlns='{FRAMING_CLIENT}' to='{CAPULET}' version='1.0'/>", "invalid-namespace"),
        (f"<stream:stream xmlns='jabber:server' xmlns:stream='{STREAMS}'/>", "invalid-namespace"),
        (OPEN.replace("/>", ">"), "not-well-formed"),
        ("hello", "not-well-formed"),
        (f"<!-- {VERONA} -->{OPEN}", "restricted-xml"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "restricted-xml"),
        (OPEN.replace("1.0", "0.9"), "unsupported-version"),
        (OPEN.replace(CAPULET, "nobody.example"), "host-unknown"),
        (OPEN.replace(f" from='{VERONA}'", ""), "improper-addressing"),
        (OPEN.replace("version", "a" * BEFORE + "='b' version"), "policy-violation"),
        (message(CAPULET, "evil"), "not-authorized"),
    ],
)
async def test_a_bad_first_message(stranger: Wire, text: str, condition: str) -> None:
    stranger.send(text)
    end = await ending(stranger)
    assert end.condition == condition, end
    # RFC 7395 §3.5: our <open/> first, then the error, then <close/>.
    assert end.messages[0].startswith("<open "), end
    assert end.messages[-1].startswith("<close "), end


@pytest.mark.parametrize("name", ["message", "presence", "iq"])
async def test_a_stanza_before_authentication(stranger: Wire, juliet: User, name: str) -> None:
    stranger.send(OPEN)
    await stranger.receive()
    await stranger.receive()
    stranger.send(message(juliet.jid, "evil").replace("message", name))
    end = await ending(stranger)
    assert (end.condition, end.messages[-1].startswith("<close ")) == ("not-authorized", True), end
    await expect_nothing_arrived(juliet)


@pytest.mark.parametrize(
    ("template", "condition"),
    [
        (message("{to}", "evil").removesuffix(">"), "not-well-formed"),
        (message("{to}", "<evil>"), "not-well-formed"),
        (message("{to}", "evil</body></message><message><body>"), "not-well-formed"),
        (message("{to}", "<?evil?>"), "restricted-xml"),
        (message("{to}", "<![CDATA[evil]]><!--evil-->"), "restricted-xml"),
        (message("{to}", "&evil;"), "not-well-formed"),
        (message("{to}", "evil", ns="jabber:client"), "invalid-namespace"),
        (message("{to}", "evil", ns="urn:evil"), "invalid-namespace"),
        ("<evil xmlns='urn:evil'/>", "unsupported-stanza-type"),
        (message("{to}", "evil", sender="paris@else.example"), "invalid-from"),
        (message("{to}", "evil", sender="nurse@capulet.example"), "invalid-from"),
        (message("{to}", "evil", sender=""), "improper-addressing"),
        (message("romeo@montague.example", "evil"), "host-unknown"),
        (message("{to}", "evil" * (AFTER // 4)), "policy-violation"),
    ],
)
async def test_a_bad_stanza_of_an_authenticated_domain(
    guest: Wire, juliet: User, template: str, condition: str
) -> None:
    guest.send(template.replace("{to}", juliet.jid))
    end = await ending(guest)
    assert end.condition == condition, [text[:300] for text in end.messages]
    assert end.messages[-1].startswith("<close "), end.messages[-1][:300]
    await expect_nothing_arrived(juliet)


@pytest.mark.parametrize(
    ("opcode", "payload", "code"),
    [
        (Opcode.BINARY, b"<message/>", 1003),
        (Opcode.TEXT, b"x" * 600_000, 1009),
    ],
)
async def test_a_frame_that_is_no_message(
    guest: Wire, juliet: User, opcode: Opcode, payload: bytes, code: int
) -> None:
    guest.send_frame(opcode, payload, mask=True)
    assert (await ending(guest)).code == code
    await expect_nothing_arrived(juliet)
