import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as some

from tests.workers.gateway.https_server import ok, status
from tests.workers.gateway.web_scene import WebScene
from tests.workers.gateway.x509_matrix import self_signed
from workers.gateway import posh as module
from workers.gateway.gate import Gate
from workers.gateway.posh import MAX_KEEP, PATH, InvalidPosh, Posh, parse

SHOWN = self_signed("a.example").chain[0]
OTHER = self_signed("a.example").chain[0]
STRANGER = "192.0.2.1"


def digest(certificate=SHOWN, algorithm=None) -> str:
    return b64encode(certificate.fingerprint(algorithm or hashes.SHA256())).decode()


def document(*fingerprints, expires=600, **more):
    return {
        "fingerprints": list(fingerprints or [{"sha-256": digest()}]),
        "expires": expires,
    } | more


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[WebScene]:
    scene = WebScene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def posh(scene: WebScene, clock: Clock) -> Posh:
    return Posh(scene.fetcher, now=clock)


async def test_a_certificate_that_the_domain_publishes_matches(scene, posh):
    scene.answer(PATH, ok(document({"sha-256": digest(OTHER)}, {"sha-256": digest()})))
    assert not posh.matches("a.example", SHOWN)
    assert await posh.learn("a.example")
    assert posh.matches("a.example", SHOWN) and posh.matches("a.example", OTHER)
    assert not posh.matches("b.example", SHOWN)
    assert not posh.matches("a.example", self_signed("a.example").chain[0])


async def test_what_is_known_is_not_asked_again_before_it_expires(scene, posh, clock):
    scene.answer(PATH, ok(document(expires=60)))
    assert await posh.learn("a.example")
    clock.now += 59
    assert not await posh.learn("a.example")
    assert posh.matches("a.example", SHOWN)
    clock.now += 1
    assert not posh.matches("a.example", SHOWN)
    assert await posh.learn("a.example")
    assert len(scene.web.asked) == 2


async def test_one_reference_is_followed_and_the_shorter_life_counts(scene, posh, clock):
    elsewhere = "https://www.a.example/posh.json"
    scene.answer(PATH, ok({"url": elsewhere, "expires": 600}))
    scene.answer("/posh.json", ok(document(expires=60)), host="www.a.example")
    assert await posh.learn("a.example")
    assert posh.matches("a.example", SHOWN)
    clock.now += 60
    assert not posh.matches("a.example", SHOWN)


@pytest.mark.parametrize(
    "url",
    ["https://www.a.example/two.json", "http://www.a.example/posh.json", "https://127.0.0.1/"],
)
async def test_no_other_reference_is(scene, posh, url):
    scene.answer(PATH, ok({"url": url, "expires": 600}))
    scene.answer(
        "/two.json", ok({"url": f"https://a.example{PATH}", "expires": 600}), "www.a.example"
    )
    assert not await posh.learn("a.example")
    assert not posh.matches("a.example", SHOWN)


@pytest.mark.parametrize(
    ("answer", "keep"),
    [(status(404), 300), (status(500), 60), (ok(b"[]"), 60), (ok(document(expires=0)), 60)],
)
async def test_a_domain_without_a_good_document_is_left_in_peace_for_a_while(
    scene, posh, clock, answer, keep
):
    scene.answer(PATH, answer)
    assert not await posh.learn("a.example")
    scene.answer(PATH, ok(document()))
    clock.now += keep - 1
    assert not await posh.learn("a.example")
    clock.now += 1
    assert await posh.learn("a.example")


async def test_many_who_ask_at_once_ask_once(scene, posh):
    scene.answer(PATH, ok(document()))
    answers = await asyncio.gather(*(posh.learn("a.example", asker=STRANGER) for _ in range(5)))
    assert all(answers) and len(scene.web.asked) == 1


async def test_we_do_not_wait_behind_a_stranger(scene, posh):
    scene.answer(PATH, ok(document()))
    await asyncio.gather(posh.learn("a.example", asker=STRANGER), posh.learn("a.example"))
    assert len(scene.web.asked) == 2


async def test_where_too_many_ask_nothing_is_concluded(scene, posh, monkeypatch):
    monkeypatch.setattr("workers.gateway.fetching.PLACE_TIMEOUT", 0.01)
    scene.answer(PATH, ok(document()))
    monkeypatch.setattr(scene.fetcher, "_strangers_places", Gate(0))
    assert not await posh.learn("a.example", asker=STRANGER)
    assert await posh.learn("a.example")


async def test_a_lookup_can_be_stopped(scene, posh):
    scene.answer(PATH, ok(document()))
    asking = asyncio.create_task(posh.learn("a.example"))
    await asyncio.sleep(0)
    await posh.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_strangers_cannot_fill_the_memory(scene, posh, monkeypatch):
    monkeypatch.setattr(module, "MAX_DOMAINS", 1)
    scene.answer(PATH, ok(document()))
    assert await posh.learn("a.example")
    assert not await posh.learn("gone.example", asker=STRANGER)
    assert not posh.matches("a.example", SHOWN)


def test_a_document_is_kept_for_a_week_at_most():
    assert parse(_json(document(expires=10**9))).expires == MAX_KEEP


def test_unknown_hashes_are_passed_over_and_all_known_ones_must_match():
    both = {"sha-256": digest(), "SHA-512": digest(algorithm=hashes.SHA512()), "sha-1": "?"}
    (read,) = parse(_json(document(both))).fingerprints
    assert set(read) == {"sha-256", "sha-512"}
    mixed = {"sha-256": digest(), "sha-512": digest(OTHER, hashes.SHA512())}
    (read,) = parse(_json(document(mixed))).fingerprints
    assert not module._matches(read, SHOWN)


@pytest.mark.parametrize(
    "bad",
    [{}, {"sha-1": "AAAA"}, {"sha-256": "?"}, {"sha-256": "AAAA"}, {"sha-256": 5}, "sha-256", None],
)
def test_a_bad_fingerprint_spoils_no_other(bad):
    assert len(parse(_json(document(bad, {"sha-256": digest()}))).fingerprints) == 1
    with pytest.raises(InvalidPosh, match="no usable fingerprint"):
        parse(_json(document(bad)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a POSH document"),
        (b"\xff", "not a POSH document"),
        (b"{}", "not a POSH document"),
        (b'{"expires": "600"}', "not a POSH document"),
        (b'{"expires": -1, "fingerprints": []}', "has expired"),
        (b'{"expires": 600}', "no usable fingerprint"),
        (b'{"expires": 600, "fingerprints": [], "url": "https://a"}', "both"),
    ],
)
def test_documents_that_cannot_be_used(data, reason):
    with pytest.raises(InvalidPosh, match=reason):
        parse(data)


@given(some.binary(max_size=200))
def test_any_bytes_are_a_document_or_none(data):
    try:
        assert parse(data).expires > 0
    except InvalidPosh:
        pass


def _json(value) -> bytes:
    return ok(value).partition(b"\r\n\r\n")[2]
