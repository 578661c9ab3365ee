"""AU: certificates in both roles and under each policy, SASL, and what a stream may say.

The cells of the certificates' matrix are in `tests/workers/gateway/certificate_cells.py`.
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes

from coordinator.configfile import load
from loadtest.stage.peers import SASL
from loadtest.stage.website import Website, host_meta
from tests.integration.identity_scene import (
    BOUND,
    CAPULET,
    KEYS,
    PARTNER,
    STRICT,
    IdentityScene,
    Opened,
    PlayedPeer,
    auth,
    eventually,
    key,
    message,
    running,
)
from tests.workers.gateway.certificate_cells import DOMAIN, Cell
from tests.workers.gateway.x509_matrix import Leaf, dns, self_signed
from workers.check import Check, Line
from workers.gateway.identity import spki_sha256
from workers.gateway.posh import PATH

SECOND = "second.example"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene() -> AsyncIterator[IdentityScene]:
    async with running() as scene:
        yield scene


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


# Certificates, in both roles and under each policy.


async def _as_client(scene: IdentityScene, cell: Cell, sender: str = DOMAIN) -> tuple[str, str]:
    """What a remote that shows the certificate is offered, and how EXTERNAL ends for it."""
    opened = await scene.open(scene.write(cell.leaf), sender)
    if "<stream:error" in opened.features:
        answer = opened.features
    else:
        answer = await opened.ask(auth("="))
    opened.end()
    return opened.features, answer


async def test_au_01_good_certificates_of_clients(scene: IdentityScene) -> None:
    refused = {}
    for cell in scene.matrix.good():
        _, answer = await _as_client(scene, cell)
        if not answer.startswith("<success"):
            refused[cell.name] = answer
    assert not refused


async def test_au_02_bad_certificates_of_clients_leave_dialback(scene: IdentityScene) -> None:
    wrong = {}
    for cell in scene.matrix.bad():
        features, answer = await _as_client(scene, cell)
        is_told = cell.reason in answer and cell.reason in scene.log()
        if "EXTERNAL" in features or "dialback" not in features or not is_told:
            wrong[cell.name] = answer
    assert not wrong


@pytest.mark.parametrize("domain", [STRICT, BOUND])
async def test_au_03_where_a_certificate_is_asked_for_a_bad_one_ends_the_stream(
    scene: IdentityScene, domain: str
) -> None:
    """The reason that names the domain is another one: the certificates are all for DOMAIN."""
    wrong = {}
    for cell in scene.matrix.bad():
        features, _ = await _as_client(scene, cell, domain)
        reason = cell.reason.replace(f"not for {DOMAIN}", f"not for {domain}")
        if "<not-authorized" not in features or reason not in features:
            wrong[cell.name] = features
    assert not wrong


async def test_au_04_where_none_is_asked_for_none_is_looked_at(scene: IdentityScene) -> None:
    for cell in (*scene.matrix.good()[:2], *scene.matrix.bad()[:2]):
        features, answer = await _as_client(scene, cell, KEYS)
        assert "EXTERNAL" not in features and "<dialback" in features
        assert "EXTERNAL is not accepted from this domain" in answer


async def _as_server(scene: IdentityScene, stranger: Opened, cell: Cell) -> tuple[str, Line]:
    """What a question about a key meets at a server with the certificate, and what check says."""
    peer = PlayedPeer(DOMAIN, scene.address(DOMAIN), scene.write(cell.leaf))
    await peer.start()
    answer = await stranger.ask(key(DOMAIN))
    lines: list[Line] = []
    await Check(load(str(scene.gateway.config)), DOMAIN, lines.append).run()
    await peer.stop()
    certificates = [line for line in lines if line.step == "certificate"]
    return answer, certificates[-1]


async def test_au_05_good_certificates_of_servers(scene: IdentityScene) -> None:
    wrong = {}
    for cell in scene.matrix.good():
        stranger = await scene.open(None)  # a valid key authenticates its stream
        answer, line = await _as_server(scene, stranger, cell)
        if "type='valid'" not in answer or line.status != "ok":
            wrong[cell.name] = (answer, line)
        stranger.end()
    assert not wrong


async def test_au_06_bad_certificates_of_servers(scene: IdentityScene) -> None:
    wrong = {}
    stranger = await scene.open(None)
    for cell in scene.matrix.bad():
        before = len(scene.log())
        answer, line = await _as_server(scene, stranger, cell)
        logged = scene.log()[before:]
        is_told = cell.reason in logged and cell.reason in line.text and line.hint
        if "remote-server-not-found" not in answer or not is_told:
            wrong[cell.name] = (answer, line, logged)
    stranger.end()
    assert not wrong


async def test_au_07_the_command_tells_the_reason_too(scene: IdentityScene) -> None:
    (cell,) = [cell for cell in scene.matrix.bad() if cell.name == "mid-usage"]
    peer = PlayedPeer(DOMAIN, scene.address(DOMAIN), scene.write(cell.leaf))
    await peer.start()
    code, out, _ = await scene.gateway.run_any("check", DOMAIN)
    await peer.stop()
    assert code == 1 and "FAILED certificate" in out and cell.reason in out


async def test_au_08_one_certificate_for_several_domains(scene: IdentityScene) -> None:
    pair = scene.issue(DOMAIN, STRICT)
    for sender in (DOMAIN, STRICT):
        opened = await scene.external(pair, sender)
        opened.say(f"several-{sender}")
        await scene.arrived(f"several-{sender}")
        opened.end()
    opened = await scene.open(pair, BOUND)
    assert f"is for {DOMAIN}, {STRICT}, not for {BOUND}" in opened.features


async def test_au_26_each_domain_may_have_authorities_of_its_own(scene: IdentityScene) -> None:
    ours, theirs = scene.matrix.root, scene.partner_authority
    for authority, domain, reason in (
        (theirs, PARTNER, ""),
        (ours, PARTNER, "missing intermediate: Test CA is not trusted"),
        (ours, DOMAIN, ""),
        (theirs, DOMAIN, "missing intermediate: Partner CA is not trusted"),
    ):
        cell = Cell("", authority.issue(dns(domain)), reason)
        features, answer = await _as_client(scene, cell, domain)
        assert ("EXTERNAL" in features) is (not reason) and reason in answer


async def test_au_09_a_stream_ends_when_the_clients_certificate_lapses(
    scene: IdentityScene,
) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    opened = await scene.external(scene.issue(STRICT, end=end), STRICT)
    opened.say("before-it-lapses")
    await scene.arrived("before-it-lapses")
    text = await opened.ending()
    assert "<reset " in text and text.endswith("/>") and "<close " in text
    assert datetime.now(UTC) < end + timedelta(seconds=5)
    await scene.told(f"session from {STRICT} to {CAPULET} ended: the certificate of the peer has")


async def test_au_10_and_when_the_servers_lapses(scene: IdentityScene) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    peer = PlayedPeer(STRICT, scene.address(STRICT), scene.issue(STRICT, end=end))
    await peer.start()
    local = await scene.open_local(STRICT)
    await eventually(lambda: peer.said("<stream:error"))
    (errors,) = peer.said("<stream:error")
    assert "<reset " in errors[0]
    await scene.told(f"session {CAPULET} → {STRICT} ended: the certificate of the peer has")
    local.close()
    await peer.stop()


# What a domain may publish to be trusted otherwise.


@pytest_asyncio.fixture(loop_scope="session")
async def website(scene: IdentityScene) -> AsyncIterator[Website]:
    """The web server of second.example, whose s2s is elsewhere."""
    address = scene.addresses.of(122)
    document = host_meta(f"wss://{SECOND}/x", scene.addresses.of(123), SECOND)
    site = Website(scene.addresses.of(122), scene.issue(SECOND), document)
    scene.dns.set(SECOND, "A", address)
    await site.start()
    yield site
    await site.stop()
    scene.dns.remove(SECOND)


def _fingerprints(leaf: Leaf) -> dict[str, object]:
    digest = b64encode(leaf.chain[0].fingerprint(hashes.SHA256())).decode()
    return {"fingerprints": [{"sha-256": digest}], "expires": 5}


async def _is_trusted(scene: IdentityScene, leaf: Leaf) -> tuple[bool, bool]:
    """Whether second.example may show the certificate as a client, and as a server."""
    opened = await scene.open(scene.write(leaf), SECOND)
    peer = PlayedPeer(SECOND, scene.addresses.of(123), scene.write(leaf))
    await peer.start()
    asking = await scene.open(None, SECOND)
    answer = await asking.ask(key(SECOND))
    await peer.stop()
    opened.end()
    asking.end()
    return "EXTERNAL" in opened.features, "type='valid'" in answer


async def test_au_11_pins_and_posh_only_add(scene: IdentityScene, website: Website) -> None:
    """In the order in which a document may be remembered: five seconds, or until asked again."""
    other, good = self_signed(SECOND), scene.matrix.leaf(*dns(SECOND))
    named, pinned = self_signed(SECOND), self_signed("no-name-at-all.example")
    lapsed = self_signed(
        SECOND,
        start=datetime.now(UTC) - timedelta(days=2),
        end=datetime.now(UTC) - timedelta(days=1),
    )
    website.documents[PATH] = _fingerprints(named)
    pins = [spki_sha256(leaf.chain[0]) for leaf in (pinned, lapsed)]
    document = host_meta(f"wss://{SECOND}/x", scene.addresses.of(123), SECOND)
    document["xmpp"]["public-key-pins-sha-256"] = pins
    website.document = document
    assert await _is_trusted(scene, named) == (True, True)
    assert await _is_trusted(scene, pinned) == (True, True)
    assert await _is_trusted(scene, good) == (True, True)
    assert await _is_trusted(scene, other) == (False, False)
    assert await _is_trusted(scene, lapsed) == (False, False)
    assert f"the certificate of {SECOND} is good by POSH" in scene.log()
    assert f"the certificate of {SECOND} is good by pinned key" in scene.log()


# SASL.


@pytest.mark.parametrize(
    ("identity", "answer"),
    [
        ("=", "success"),
        (encoded(DOMAIN), "success"),
        (encoded(DOMAIN.upper()), "success"),
        (encoded(STRICT), "invalid-authzid"),
        (encoded(f"romeo@{DOMAIN}"), "invalid-authzid"),
        (encoded(f"{DOMAIN}/x"), "invalid-authzid"),
        (encoded(f"sub.{DOMAIN}"), "invalid-authzid"),
        ("", "malformed-request"),
        ("*", "incorrect-encoding"),
        (b64encode(b"\xff").decode(), "incorrect-encoding"),
    ],
)
async def test_au_12_the_identity_is_the_streams_own(
    scene: IdentityScene, identity: str, answer: str
) -> None:
    opened = await scene.open(scene.issue(DOMAIN))
    assert f"<{answer}" in await opened.ask(auth(identity))
    opened.end()


async def test_au_13_mechanisms_aborts_and_attempts(scene: IdentityScene) -> None:
    opened = await scene.open(scene.issue(DOMAIN))
    assert "<invalid-mechanism" in await opened.ask(auth(encoded("\0a\0b"), "PLAIN"))
    assert "<aborted" in await opened.ask(f"<abort xmlns='{SASL}'/>")
    assert "<invalid-authzid" in await opened.ask(auth(encoded(STRICT)))
    assert (await opened.ask(auth("="))).startswith("<success")  # the third

    opened = await scene.open(scene.issue(DOMAIN))
    for _ in range(3):
        assert "<failure" in await opened.ask(auth(encoded(STRICT)))
    opened.send(auth("="))
    assert "<policy-violation" in await opened.ending()


async def test_au_14_no_second_authentication(scene: IdentityScene) -> None:
    opened = await scene.external(scene.issue(DOMAIN))
    opened.send(auth("="))
    assert "<unsupported-stanza-type" in await opened.ending()


# Stanzas of those who have proved nothing, or something else.


@pytest.mark.parametrize("when", ["opened", "failed", "asked", "denied"])
async def test_au_15_no_stanza_before_authentication(
    scene: IdentityScene, keys: PlayedPeer, when: str
) -> None:
    keys.verdict = "error" if when == "denied" else "valid"
    opened = await scene.open(None, KEYS)
    if when == "failed":
        await opened.ask(auth("="))
    elif when == "asked":
        keys.on_text = lambda _wire, text: text.startswith("<db:verify")  # no answer yet
        opened.send(key(KEYS))
    elif when == "denied":
        assert "type='error'" in await opened.ask(key(KEYS))
    opened.say("evil-early")
    assert "<not-authorized" in await opened.ending()
    await scene.nothing_evil_came()


@pytest.mark.parametrize(
    "sender",
    [
        "paris@other.example",
        f"paris@sub.{DOMAIN}",
        "paris@verona.example",
        f"paris@{DOMAIN}.evil.example",
        "paris@ch\u0430t.verona.example",  # Cyrillic
        f"{DOMAIN}@evil.example",
        f"evil.example/{DOMAIN}",
        f"paris@{CAPULET}",
    ],
)
async def test_au_16_a_stream_speaks_for_its_domain_alone(
    scene: IdentityScene, sender: str
) -> None:
    opened = await scene.external(scene.issue(DOMAIN))
    opened.send(message("evil-sender", sender, f"juliet@{CAPULET}"))
    assert "<invalid-from" in await opened.ending()
    await scene.nothing_evil_came()


@pytest.mark.parametrize("target", ["montague.example", f"sub.{CAPULET}", DOMAIN])
async def test_au_17_and_to_its_target_alone(scene: IdentityScene, target: str) -> None:
    opened = await scene.external(scene.issue(DOMAIN))
    opened.say("evil-target", to=target)
    assert "<host-unknown" in await opened.ending()
    await scene.nothing_evil_came()
