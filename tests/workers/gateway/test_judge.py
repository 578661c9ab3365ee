"""What proves a domain beside a chain to an authority, and that it never takes anything away."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from coordinator.config import Certificates, Config
from tests.workers.gateway.https_server import ok
from tests.workers.gateway.web_scene import JSON, WebScene
from tests.workers.gateway.x509_matrix import NOW, Authority, Leaf, dns, self_signed
from workers.gateway import judge
from workers.gateway.discovery import Discovery
from workers.gateway.hostmeta import S2S_WEBSOCKET
from workers.gateway.identity import CertificateRejected, TrustSources, spki_sha256
from workers.gateway.judge import Judge
from workers.gateway.posh import PATH
from workers.gateway.resolver import Resolver

A = "a.example"
STRANGER = "192.0.2.1"
DAY = timedelta(days=1)


class JudgeScene(WebScene):
    """The domain a.example, its web server, and a judge who trusts its authority."""

    async def start(self) -> None:
        await super().start()
        config = Config(certificates=Certificates(trust=str(self.bundle)))
        resolver = Resolver([self.dns.address], timeout=1)

        async def load(_domain: str) -> bytes | None:
            return None

        async def save(_domain: str, _payload: bytes, _seconds: float) -> None: ...

        self.discovery = Discovery(config, resolver, load, save, fetcher=self.fetcher)
        self.judge = Judge(TrustSources(config), self.discovery)

    async def close(self) -> None:
        await self.judge.close()
        await self.discovery.close()
        await super().close()

    def publish(self, *pinned: Leaf, host: str = "gw.a.example") -> None:
        link = {"rel": S2S_WEBSOCKET, "href": f"wss://{host}/x"}
        pins = [spki_sha256(leaf.chain[0]) for leaf in pinned]
        xmpp = {"ttl": 3600, "public-key-pins-sha-256": pins}
        self.answer(JSON, ok({"links": [link], "xmpp": xmpp}))

    def vouch_for(self, leaf: Leaf) -> None:
        digest = b64encode(leaf.chain[0].fingerprint(hashes.SHA256())).decode()
        self.answer(PATH, ok({"fingerprints": [{"sha-256": digest}], "expires": 600}))

    async def by(self, leaf: Leaf, domain: str = A) -> str:
        proof = await self.judge.ask(leaf.chain, domain, asker=STRANGER)
        assert proof.not_after == leaf.chain[0].not_valid_after_utc.timestamp()
        return proof.by

    async def refusal(self, leaf: Leaf, domain: str = A) -> str:
        with pytest.raises(CertificateRejected) as caught:
            await self.judge.ask(leaf.chain, domain, asker=STRANGER)
        return caught.value.reason


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[JudgeScene]:
    scene = JudgeScene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


async def test_a_chain_that_proves_the_domain_needs_nothing_else(scene: JudgeScene) -> None:
    assert await scene.by(scene.authority.issue(dns(A))) == "PKIX"
    assert not scene.web.asked


async def test_a_host_that_the_domain_delegates_to_may_stand_for_it(scene: JudgeScene) -> None:
    scene.publish()
    assert await scene.by(scene.authority.issue(dns("gw.a.example"))) == "PKIX"
    assert "not for a.example or gw.a.example" in await scene.refusal(
        scene.authority.issue(dns("other.example"))
    )


async def test_a_key_that_is_pinned_in_host_meta_is_good(scene: JudgeScene) -> None:
    leaf = self_signed("whatever.example")
    scene.publish(self_signed("another.example"), leaf)
    assert await scene.by(leaf) == "pinned key"


async def test_a_certificate_that_posh_names_is_good(scene: JudgeScene) -> None:
    leaf = Authority("Stranger CA").issue(dns("hoster.example"))
    scene.vouch_for(leaf)
    assert await scene.by(leaf) == "POSH"


async def test_neither_takes_away_what_a_chain_proves(scene: JudgeScene) -> None:
    other = self_signed("other.example")
    scene.vouch_for(other)
    assert await scene.by(other) == "POSH"
    leaf = scene.authority.issue(dns(A))
    assert await scene.by(leaf) == "PKIX"
    pins = {spki_sha256(other.chain[0])}
    assert scene.judge.judge(leaf.chain, A, pins=pins).by == "PKIX"


async def test_they_speak_for_their_own_domain_alone(scene: JudgeScene) -> None:
    leaf = self_signed("victim.example")
    scene.publish(leaf)
    scene.vouch_for(leaf)
    assert await scene.by(leaf) == "pinned key"
    assert "self-signed" in await scene.refusal(leaf, "victim.example")


async def test_nobody_can_vouch_for_a_certificate_that_has_expired(scene: JudgeScene) -> None:
    past = self_signed(A, start=NOW - 2 * DAY, end=NOW - DAY)
    future = self_signed(A, start=NOW + DAY, end=NOW + 2 * DAY)
    for leaf, reason in ((past, "expired on"), (future, "is not valid before")):
        scene.publish(leaf)
        scene.vouch_for(leaf)
        await scene.judge._posh.learn(A)
        assert scene.judge._posh.matches(A, leaf.chain[0]) or leaf is future
        assert not await scene.judge.is_published(leaf.chain, A)
        assert reason in await scene.refusal(leaf)
        with pytest.raises(CertificateRejected):
            scene.judge.judge(leaf.chain, A, pins={spki_sha256(leaf.chain[0])})


async def test_nor_for_a_weak_key(scene: JudgeScene) -> None:
    leaf = self_signed(A, key=rsa.generate_private_key(65537, 1024))
    scene.vouch_for(leaf)
    await scene.judge._posh.learn(A)
    assert scene.judge._posh.matches(A, leaf.chain[0])
    assert "self-signed" in await scene.refusal(leaf)


async def test_what_could_prove_nothing_makes_nobody_ask(scene: JudgeScene) -> None:
    await scene.refusal(self_signed(A, start=NOW - 2 * DAY, end=NOW - DAY))
    await scene.refusal(Leaf([], self_signed(A).key))
    assert not scene.web.asked


async def test_pins_of_a_document_that_has_expired_prove_nothing(
    scene: JudgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = self_signed(A)
    scene.publish(leaf)
    assert (await scene.discovery.find(A)).pins
    assert await scene.by(leaf) == "pinned key"
    await scene.web.close()
    now = scene.discovery._now()
    monkeypatch.setattr(scene.discovery, "_now", lambda: now + 7200)
    assert (await scene.discovery.find(A, asker=STRANGER)).source == "stale"
    assert "self-signed" in await scene.refusal(leaf)


async def test_a_domain_that_answers_late_is_believed_at_the_next_attempt(
    scene: JudgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf, may_answer = self_signed(A), asyncio.Event()
    scene.vouch_for(leaf)
    document = scene.web.answers[A, PATH]

    async def late(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(document)  # type: ignore[arg-type]
        await writer.drain()

    scene.answer(PATH, late)
    monkeypatch.setattr(judge, "PATIENCE", 0.2)
    assert "self-signed" in await scene.refusal(leaf)
    may_answer.set()
    monkeypatch.setattr(judge, "PATIENCE", 5)
    assert await scene.by(leaf) == "POSH"
    assert scene.web.asked.count(f"{A}{PATH}") == 1


async def test_a_bundle_that_cannot_be_read_is_not_the_peers_to_know(
    scene: JudgeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.bundle.unlink()
    reason = await scene.refusal(scene.authority.issue(dns(A)))
    assert reason == "certificates cannot be verified at the moment"
    assert str(scene.bundle) in caplog.text
