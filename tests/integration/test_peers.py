"""xmpp-proxy and PeerTube livechat, as their wires look, against a real gateway in both roles."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.stage.peers import PeerTubePeer, XmppProxyPeer
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed

PROXY = "proxied.example"
TUBE = "tube.example"
SMALL = "small.example"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxy(stage: Stage) -> AsyncIterator[XmppProxyPeer]:
    """A Prosody behind xmpp-proxy."""
    peer = XmppProxyPeer(PROXY, stage.actor_address(120), stage.authority.issue(PROXY))
    stage.dns.set(PROXY, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()
    stage.dns.remove(PROXY)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tube(stage: Stage) -> AsyncIterator[PeerTubePeer]:
    """A PeerTube instance behind a front that re-frames, so that its frames are masked."""
    peer = PeerTubePeer(TUBE, stage.actor_address(121), stage.authority.issue(TUBE))
    peer.masks = True
    for gateway in stage.gateways:
        for domain in gateway.domains:
            peer.introduce(domain, f"wss://{gateway.public_host}/xmpp-s2s", gateway.address)
    stage.dns.set(TUBE, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()
    stage.dns.remove(TUBE)


@pytest.fixture(params=["prosody", "ejabberd"])
def user(request: pytest.FixtureRequest, juliet: User, romeo: User) -> User:
    """A user behind a gateway, on either server."""
    return juliet if request.param == "prosody" else romeo


def entrance(stage: Stage, user: User) -> tuple[str, str, str]:
    """URL, address and domain by which a peer dials the gateway of a user."""
    gateway = stage.capulet_gateway if user.domain == CAPULET else stage.montague_gateway
    return f"wss://{gateway.public_host}/xmpp-s2s", gateway.address, user.domain


def message(peer_domain: str, to: str, body: str, id: str = "m1") -> str:
    return (
        f"<message from='paris@{peer_domain}/villa' to='{to}' id='{id}' type='chat' "
        f"xmlns='jabber:server'><body>{body}</body></message>"
    )


async def test_to_xmpp_proxy(proxy: XmppProxyPeer, user: User) -> None:
    for number in range(50):
        user.send(f"paris@{PROXY}", f"line {number} from {user.domain}")
    for number in range(50):
        stanza = await proxy.next_stanza(f"from {user.domain}")
        assert f"line {number} " in stanza
        assert f"from='{user.jid}'" in stanza.replace('"', "'")


async def test_from_xmpp_proxy(stage: Stage, proxy: XmppProxyPeer, user: User) -> None:
    wire = await proxy.connect(*entrance(stage, user))
    for number in range(50):
        proxy.send(wire, message(PROXY, user.jid, f"proxied {number}", f"p{number}"))
    for number in range(50):
        received = await user.inbox.take(lambda s: s.body.startswith("proxied "))
        assert (received.body, received.id) == (f"proxied {number}", f"p{number}")
    assert await proxy.acknowledged(wire) == 50
    proxy.close(wire)


async def test_several_elements_in_one_message_do_not_pass(
    stage: Stage, proxy: XmppProxyPeer, user: User
) -> None:
    """Its text replacement lets them through; our parser must not."""
    wire = await proxy.connect(*entrance(stage, user))
    twice = message(PROXY, user.jid, "first") + message(PROXY, user.jid, "second")
    proxy.send(wire, twice)
    with pytest.raises(WireClosed):
        while True:
            await proxy.receive(wire)
    assert not user.inbox.peek(lambda s: s.body in ("first", "second"))


async def test_xmpp_proxy_closes_in_the_wrong_namespace_and_comes_back(
    stage: Stage, proxy: XmppProxyPeer, user: User
) -> None:
    for attempt in range(2):
        wire = await proxy.connect(*entrance(stage, user))
        proxy.send(wire, message(PROXY, user.jid, f"visit {attempt}"))
        await user.message(f"visit {attempt}")
        proxy.close(wire)


async def test_to_xmpp_proxy_again_after_its_server_closed(
    proxy: XmppProxyPeer, juliet: User
) -> None:
    juliet.send(f"paris@{PROXY}", "before its end")
    await proxy.next_stanza("before its end")
    for wire in proxy.wires:
        wire.end()
    juliet.send(f"paris@{PROXY}", "after its end")
    await proxy.next_stanza("after its end", within=30)


async def test_to_peertube(tube: PeerTubePeer, user: User) -> None:
    user.send(f"paris@{TUBE}", f"to the tube from {user.domain}")
    await tube.next_stanza(f"to the tube from {user.domain}", within=20)


async def test_from_peertube(stage: Stage, tube: PeerTubePeer, user: User) -> None:
    wire = await tube.connect(*entrance(stage, user))
    assert (user.domain, "valid") in tube.verified
    tube.ping(wire)
    tube.say(wire, message(TUBE, user.jid, "from the tube"))
    received = await user.message("from the tube")
    assert received.sender == f"paris@{TUBE}/villa"
    assert wire.pongs == 1
    wire.close()


async def test_a_key_that_peertube_denies_is_refused(
    stage: Stage, tube: PeerTubePeer, juliet: User
) -> None:
    thief = PeerTubePeer(TUBE, stage.actor_address(122), stage.authority.issue(TUBE))
    thief.masks = True
    with pytest.raises(WireClosed):
        await thief.connect(*entrance(stage, juliet))
    assert tube.verified[-1] == (CAPULET, "invalid")
    await thief.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def lenient(stage: Stage) -> AsyncIterator[Stage]:
    """montague's gateway takes unmasked frames from loopback, where the tube is; capulet's not."""
    gateway = stage.montague_gateway
    gateway.configure("websocket", allow_unmasked=["127.0.0.0/8"])
    await gateway.restart()
    yield stage
    gateway.configure("websocket", allow_unmasked=None)
    await gateway.restart()


async def test_unmasked_frames_are_refused_unless_allowed(
    lenient: Stage, tube: PeerTubePeer, juliet: User, romeo: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tube, "masks", False)
    with pytest.raises(WireClosed) as closed:
        await tube.connect(*entrance(lenient, juliet))
    assert closed.value.code == 1002

    wire = await tube.connect(*entrance(lenient, romeo))
    for number in range(20):
        tube.say(wire, message(TUBE, romeo.jid, f"unmasked {number}"))
    for number in range(20):
        received = await romeo.inbox.take(lambda s: s.body.startswith("unmasked "))
        assert received.body == f"unmasked {number}"
    wire.close()


class SmallPeer(XmppProxyPeer):
    """Advertises that it takes no more than 20,000 bytes at a time (XEP-0478)."""

    def _answer_open(self, wire: Wire, sender: str, features: str) -> None:
        limit = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>20000</max-bytes></limits>"
        super()._answer_open(wire, sender, features + limit)


@pytest_asyncio.fixture(loop_scope="session")
async def small(stage: Stage) -> AsyncIterator[SmallPeer]:
    peer = SmallPeer(SMALL, stage.actor_address(124), stage.authority.issue(SMALL))
    stage.dns.set(SMALL, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()
    stage.dns.remove(SMALL)


async def test_what_is_too_large_for_the_remote_comes_back(small: SmallPeer, user: User) -> None:
    user.send(f"paris@{SMALL}", "a word before")
    stanza_id = user.send(f"paris@{SMALL}", "x" * 21_000)
    user.send(f"paris@{SMALL}", "a word after")
    error = await user.error(stanza_id)
    assert (error.condition, error.sender) == ("policy-violation", f"paris@{SMALL}")
    await small.next_stanza("a word before")
    await small.next_stanza("a word after")
    assert not any("xxxx" in text for text in small.log)


async def test_a_stanza_for_a_domain_not_authenticated_is_not_delivered(
    stage: Stage, proxy: XmppProxyPeer, juliet: User
) -> None:
    wire = await proxy.connect(*entrance(stage, juliet))
    proxy.send(wire, message("someone-else.example", juliet.jid, "under a false name"))
    with pytest.raises(WireClosed):
        while True:
            await proxy.receive(wire)
    assert any("invalid-from" in text or "not-authorized" in text for text in proxy.log)
    assert not juliet.inbox.peek(lambda s: s.body == "under a false name")


async def test_a_domain_of_ours_cannot_be_claimed(stage: Stage, juliet: User) -> None:
    thief = XmppProxyPeer(CAPULET, stage.actor_address(123), stage.authority.issue(CAPULET))
    with pytest.raises(WireClosed):
        await thief.connect(*entrance(stage, juliet))
    await thief.stop()
