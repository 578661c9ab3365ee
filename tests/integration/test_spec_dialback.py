"""AU, continued: dialback; and BI: both directions on one stream carry no more than was proved."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.stage.peers import PeerTubePeer, attribute
from loadtest.stage.wire import Wire
from tests.integration.identity_scene import (
    BIDI,
    BIDI_FEATURE,
    BOUND,
    CAPULET,
    KEYS,
    STRICT,
    IdentityScene,
    Opened,
    PlayedPeer,
    auth,
    eventually,
    key,
    message,
    question,
    running,
)
from tests.workers.gateway.certificate_cells import DOMAIN
from tests.workers.gateway.session_bench import message as local_message
from workers.gateway.tcp_session import TcpSession

TUBE, ABSENT = "tube.example", "absent.example"
# What a stanza meets where none may come.
NONE = "not-authorized"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene() -> AsyncIterator[IdentityScene]:
    async with running() as scene:
        yield scene


@pytest_asyncio.fixture(loop_scope="session")
async def tube(scene: IdentityScene) -> AsyncIterator[PeerTubePeer]:
    """A remote that proves itself by dialback alone, in both directions."""
    peer = PeerTubePeer(TUBE, scene.addresses.of(120), scene.issue(TUBE))
    peer.introduce(CAPULET, f"wss://{CAPULET}/xmpp-s2s", scene.gateway.address)
    scene.dns.set(TUBE, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()


# Dialback.


@pytest.mark.parametrize("verdict", ["valid", "invalid", "error"])
async def test_au_18_a_key_is_what_its_server_says(
    scene: IdentityScene, keys: PlayedPeer, verdict: str
) -> None:
    keys.verdict = verdict
    opened = await scene.open(None, KEYS)
    answer = await opened.ask(key(KEYS, "the-key"))
    assert f"from='{CAPULET}' to='{KEYS}' type='{verdict}'" in answer
    ((asked,),) = keys.said("<db:verify")
    assert f"id='{opened.id}'" in asked and ">the-key<" in asked
    if verdict == "invalid":
        assert (await opened.receive()).startswith("<close ")  # its only pair was a lie
    elif verdict == "error":
        keys.verdict = "valid"
        assert "type='valid'" in await opened.ask(key(KEYS))  # the stream is of use still
    else:
        opened.say("by-key")
        await scene.arrived("by-key")
        await scene.proved(KEYS, "dialback")
    opened.end()


async def test_au_19_a_key_whose_server_is_away_is_an_error(scene: IdentityScene) -> None:
    opened = await scene.open(None, ABSENT)
    assert "<remote-server-not-found" in await opened.ask(key(ABSENT))
    opened.end()


async def test_au_20_our_own_keys_are_good_once_and_for_one_stream(
    scene: IdentityScene, tube: PeerTubePeer
) -> None:
    local = await scene.open_local(TUBE)
    (result,) = [text[2:] for text in tube.log if text.startswith("< <db:result")]
    ours = result.partition(">")[2].partition("<")[0]
    opened = await scene.open(None, TUBE)
    assert "type='valid'" in await opened.ask(question(TUBE, "pt-1", ours))
    for id, text in (
        ("pt-2", ours),
        ("pt-1", ours.upper()),
        ("pt-1", ours[:-1]),
        ("pt-1", f"{ours}0"),
        ("pt-1", ""),
        (f"{TUBE} pt-1", ours),
    ):
        assert "type='invalid'" in await opened.ask(question(TUBE, id, text)), (id, text)
    # Who has proved nothing may not even ask in another name.
    assert "type='error'" in await opened.ask(question("other.example", "pt-1", ours))
    assert "type='error'" in await opened.ask(question(TUBE, "pt-1", ours, to="else.example"))
    opened.end()
    local.close()


@pytest.mark.parametrize(
    "answer",
    [
        key(DOMAIN, "", type="valid"),
        key(STRICT, "", type="valid"),
        question(DOMAIN, "id", "", type="valid"),
        question(STRICT, "id", "", type="valid"),
    ],
)
async def test_au_21_an_answer_to_no_question_proves_nothing(
    scene: IdentityScene, answer: str
) -> None:
    opened = await scene.open(None)
    opened.send(answer)
    opened.say("evil-answer")
    assert "<not-authorized" in await opened.ending()

    opened = await scene.external(scene.issue(DOMAIN))
    opened.send(answer)
    opened.say("evil-answer", sender=STRICT)
    assert "<invalid-from" in await opened.ending()
    await scene.nothing_evil_came()


async def test_au_22_an_answer_counts_on_the_stream_it_was_asked_on_alone(
    scene: IdentityScene, keys: PlayedPeer
) -> None:
    """The server answers on another pair, with another id, in another name; then rightly."""

    def answer_wrongly(wire: Wire, text: str) -> bool:
        if text.startswith("<db:verify"):
            id = attribute(text, "id")
            for wrong in (
                question(KEYS, "another", "", type="valid"),
                question(DOMAIN, id, "", type="valid"),
                question(KEYS, id, "", to=STRICT, type="valid"),
                key(KEYS, "", type="valid"),
            ):
                wire.send(wrong)
            keys.verdict = "invalid"
        return False

    keys.on_text = answer_wrongly
    opened = await scene.open(None, KEYS)
    assert "type='invalid'" in await opened.ask(key(KEYS))
    assert (await opened.receive()).startswith("<close ")
    opened.end()


@pytest.mark.parametrize("bidi", [False, True])
async def test_au_23_a_key_is_verified_on_another_connection(
    scene: IdentityScene, keys: PlayedPeer, bidi: bool
) -> None:
    opened = await scene.open(None, KEYS)
    if bidi:
        opened.send(BIDI)
    answer = await opened.ask(key(KEYS))  # the first that comes on this connection
    assert "type='valid'" in answer
    ((asked,),) = keys.said("<db:verify")
    assert asked and len(keys.streams) == 1
    opened.end()


async def test_au_24_other_domains_may_join_by_proof_alone(
    scene: IdentityScene, keys: PlayedPeer
) -> None:
    opened = await scene.external(scene.issue(DOMAIN, STRICT))
    # By the certificate that was shown, by a key, by neither.
    assert "type='valid'" in await opened.ask(key(STRICT))
    assert "type='valid'" in await opened.ask(key(KEYS))
    assert len(keys.said("<db:verify")) == 1
    assert "<not-authorized" in await opened.ask(key(BOUND))
    assert "<item-not-found" in await opened.ask(key(STRICT, to="montague.example"))
    assert "<not-acceptable" in await opened.ask(key(CAPULET))
    keys.verdict = "invalid"
    for sender in (DOMAIN, STRICT, KEYS):
        opened.say(f"joined-{sender}", sender=sender)
        await scene.arrived(f"joined-{sender}")
    await scene.proved(KEYS, "certificate, dialback, external")
    opened.say("evil-joined", sender=BOUND)
    assert "<invalid-from" in await opened.ending()
    await scene.nothing_evil_came()


async def test_au_25_dialback_bound_to_a_certificate(scene: IdentityScene) -> None:
    peer = PlayedPeer(BOUND, scene.address(BOUND), scene.issue(BOUND))
    await peer.start()
    opened = await scene.open(scene.issue(BOUND), BOUND)
    assert "EXTERNAL" not in opened.features
    peer.verdict = "error"
    assert "type='error'" in await opened.ask(key(BOUND))  # the certificate alone is not enough
    peer.verdict = "valid"
    assert "type='valid'" in await opened.ask(key(BOUND))
    opened.say("bound")
    await scene.arrived("bound")
    opened.end()
    await peer.stop()


# Both directions on one stream.


@pytest_asyncio.fixture(loop_scope="session")
async def both_ways(scene: IdentityScene) -> AsyncIterator[Opened]:
    """strict.example's session, by EXTERNAL, on which stanzas may come back."""
    opened = await scene.external(scene.issue(STRICT), STRICT, bidi=True)
    await scene.told(f"{CAPULET} → {STRICT} goes back on the session it opened")
    yield opened
    opened.end()


async def test_bi_01_offered_before_authentication_and_not_after(scene: IdentityScene) -> None:
    opened = await scene.open(scene.issue(DOMAIN))
    assert BIDI_FEATURE in opened.features
    opened.send(auth("="))
    assert (await opened.receive()).startswith("<success")
    await opened.open()
    assert BIDI_FEATURE not in opened.features
    opened.send(BIDI)
    assert "<unsupported-stanza-type" in await opened.ending()


async def test_bi_02_what_goes_back_is_of_the_pair(scene: IdentityScene, both_ways: Opened) -> None:
    local = await scene.open_local(STRICT)
    _send(local, "back", STRICT)
    assert attribute(await both_ways.receive(), "id") == "back"
    local.close()


async def test_bi_03_nothing_goes_back_before_the_peer_has_proved_itself(
    scene: IdentityScene,
) -> None:
    opened = await scene.open(scene.issue(STRICT), STRICT)
    opened.send(BIDI)
    peer = PlayedPeer(STRICT, scene.address(STRICT), scene.issue(STRICT))
    await peer.start()
    local = await scene.open_local(STRICT)
    _send(local, "not-back", STRICT)
    await peer.next_stanza("not-back")  # on a session of our own
    with pytest.raises(TimeoutError):
        await opened.wire.receive(0.2)
    opened.end()
    local.close()
    await peer.stop()


async def test_bi_04_nor_for_a_domain_that_only_joined(
    scene: IdentityScene, keys: PlayedPeer
) -> None:
    opened = await scene.external(scene.issue(DOMAIN), bidi=True)
    assert "type='valid'" in await opened.ask(key(KEYS))
    local = await scene.open_local(KEYS)
    _send(local, "joined-back", KEYS)
    await keys.next_stanza("joined-back")
    opened.end()
    local.close()


async def test_bi_05_the_feature_is_no_request_and_the_request_no_feature(
    scene: IdentityScene,
) -> None:
    opened = await scene.open(scene.issue(DOMAIN))
    opened.send(BIDI_FEATURE)
    assert "<unsupported-stanza-type" in await opened.ending()

    for offered, expected in ((BIDI, 0), (BIDI_FEATURE, 1)):
        peer = await scene.peer(more_features=offered)
        local = await scene.open_local(peer.domain)
        assert len(peer.said("<bidi ")) == expected
        local.close()
        await peer.stop()


@pytest.mark.parametrize("bidi", [False, True])
async def test_bi_06_what_a_server_may_say_on_a_session_of_ours(
    scene: IdentityScene, bidi: bool
) -> None:
    for make, one_way, both_ways in (
        (lambda own: message("evil-1", f"a@{DOMAIN}", f"b@{CAPULET}"), NONE, "invalid-from"),
        (lambda own: message("evil-2", f"a@{own}", "b@else.example"), NONE, "host-unknown"),
        (lambda own: message("evil-3", f"a@{CAPULET}", f"b@{CAPULET}"), NONE, "invalid-from"),
        (lambda own: key(own), "unsupported-stanza-type", "resource-constraint"),
        (lambda own: question(own, "id", "k"), "unsupported-stanza-type", "resource-constraint"),
    ):
        peer = await scene.peer(more_features=BIDI_FEATURE if bidi else "")
        local = await scene.open_local(peer.domain)
        wire, said = peer.wires[-1], peer.streams[-1]
        # An answer that nobody asked for changes nothing.
        wire.send(key(DOMAIN, "", type="valid"))
        wire.send(question(DOMAIN, "id", "", type="valid"))
        wire.send(make(peer.domain))
        condition = both_ways if bidi else one_way
        await eventually(lambda: f"<{condition} " in "".join(said))  # noqa: B023
        local.close()
        await peer.stop()
    await scene.nothing_evil_came()


def _send(local: TcpSession, id: str, target: str) -> None:
    local.stream.send_stanzas([local_message(id, sender=CAPULET, target=target)])
    local.write()
