"""Who may open sessions in whose name: certificates, and keys that are asked about."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.config import Remote
from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import GatewayScene, Peer
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    message,
    on_quiet_loop,
    until,
)
from workers.gateway import judged_source
from workers.gateway.certificates import KeyPair, load_pair
from workers.gateway.failure import HopFailed
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import StreamFailed
from workers.xmpp.receiving import ReceivingStream


@on_quiet_loop
async def test_without_a_certificate_dialback_is_asked_of_the_authoritative_server(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_remote(known=False)
    peer.send(message("1", sender=REMOTE, target=LOCAL))
    await until(lambda: gateway.local.got)
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "dialback"


@on_quiet_loop
async def test_a_key_that_the_authoritative_server_denies_ends_the_stream(
    gateway: GatewayScene,
) -> None:
    gateway.remote.verdict = "invalid"
    await gateway.start()
    with pytest.raises(HopFailed, match="invalid"):
        await gateway.open_remote(known=False)
    await until(lambda: not gateway.public.sources)
    assert gateway.public.errors[0]["domain"] == REMOTE


@on_quiet_loop
async def test_a_blocked_domain_is_refused(gateway: GatewayScene) -> None:
    await gateway.start(remote={"block": True})
    with pytest.raises(HopFailed, match="not served"):
        await gateway.open_remote()


@on_quiet_loop
async def test_a_domain_that_must_use_external_cannot_use_dialback(gateway: GatewayScene) -> None:
    await gateway.start(remote={"auth": ("external",)})
    with pytest.raises(HopFailed, match="not-authorized"):
        await gateway.open_remote(known=False)


@on_quiet_loop
async def test_nor_on_a_stream_that_another_domain_opened(gateway: GatewayScene) -> None:
    await gateway.start(remote={"auth": ("external",)})
    peer = await gateway.open_remote(sender="other.example", known=False, verify_only=True)
    stream = peer.session.stream
    stream.outgoing.append(
        f"<db:result xmlns:db='jabber:server:dialback' from='{REMOTE}' to='{LOCAL}'>key"
        "</db:result>".encode()
    )
    peer.session.write()
    # Its answer is one that our stream did not ask for, so what must not come is a connection.
    stream.send_verify(sender="other.example", target=LOCAL, id="id", key="k")
    gateway.local.verdict = "invalid"
    peer.session.pump()
    await until(lambda: peer.answers() == ["invalid"])
    assert not gateway.remote.sessions
    (source,) = gateway.public.sources
    assert not source.pairs


@on_quiet_loop
async def test_questions_about_keys_are_asked_of_the_local_server(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_remote(known=False, verify_only=True)
    for id, verdict in (("one", "valid"), ("two", "invalid")):
        gateway.local.verdict = verdict
        peer.session.stream.send_verify(sender=REMOTE, target=LOCAL, id=id, key="its own")
        peer.session.pump()
        await until(lambda: verdict in peer.answers())  # noqa: B023


@on_quiet_loop
async def test_before_it_has_proved_one_a_stream_may_only_speak_of_its_own_domain(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_remote(known=False, verify_only=True)
    peer.session.stream.send_verify(sender="victim.example", target=LOCAL, id="one", key="k")
    peer.session.stream.outgoing.append(
        "<db:result xmlns:db='jabber:server:dialback' from='victim.example' "
        f"to='{LOCAL}'>key</db:result>".encode()
    )
    peer.session.pump()
    await until(lambda: peer.answers() == ["error"])
    assert not gateway.local.sessions
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_a_flood_of_questions_is_refused_at_once(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged_source, "MAX_STRANGERS_QUESTIONS", 2)
    await gateway.start()
    gateway.local.verdict = ""
    peer = await gateway.open_remote(known=False, verify_only=True)
    for id in ("one", "two", "three", "four"):
        peer.session.stream.send_verify(sender=REMOTE, target=LOCAL, id=id, key="its own")
    peer.session.pump()
    await until(lambda: peer.answers() == ["error", "error"])


BEHIND = {"tls": False, "trusted_proxies": ("127.0.0.1/32",)}


def forwarded(gateway: GatewayScene) -> dict[str, str]:
    leaf = gateway.remote_pair.chain[0].public_bytes(Encoding.DER)
    return {"Client-Cert": f":{b64encode(leaf).decode()}:", "X-Forwarded-For": "203.0.113.5"}


@on_quiet_loop
async def test_a_forwarded_certificate_is_judged_like_a_direct_one(gateway: GatewayScene) -> None:
    await gateway.start(websocket={**BEHIND, "client_certificate_header": "Client-Cert"})
    await gateway.open_remote(headers=forwarded(gateway))
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "external"
    assert shown["peer"].startswith("203.0.113.5 via 127.0.0.1:")
    with pytest.raises(HopFailed, match="EXTERNAL is not offered"):
        await gateway.open_remote(
            sender="other.example", headers=forwarded(gateway), use_dialback=False
        )


@pytest.mark.parametrize(
    "websocket",
    [
        BEHIND,  # no header is configured
        {"client_certificate_header": "Client-Cert"},  # nobody is trusted
        {"client_certificate_header": "Client-Cert", "trusted_proxies": ("192.0.2.0/24",)},
    ],
)
@on_quiet_loop
async def test_a_certificate_that_nobody_may_forward_counts_nothing(
    gateway: GatewayScene, websocket: dict[str, object]
) -> None:
    await gateway.start(websocket=websocket)
    await gateway.open_remote(known=False, headers=forwarded(gateway))
    (source,) = gateway.public.sources
    assert source.session.peer_chain() == []
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "dialback"
    assert ("via" in shown["peer"]) == ("tls" in websocket)


@pytest.mark.parametrize(
    ("header", "headers"),
    [("Client-Cert", {}), ("", {"X-Forwarded-For": "203.0.113.5"})],
    ids=["forwards certificates", "forwards none"],
)
@on_quiet_loop
async def test_the_proxys_own_certificate_is_not_the_peers(
    gateway: GatewayScene, header: str, headers: dict[str, str]
) -> None:
    await gateway.start(
        websocket={"trusted_proxies": ("127.0.0.1/32",), "client_certificate_header": header}
    )
    # TLS shows remote's certificate, the header none.
    peer = await gateway.open_remote(headers=headers)
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "dialback"
    peer.session.close()


@on_quiet_loop
async def test_keys_are_asked_for_in_the_name_of_the_address_that_is_known(
    gateway: GatewayScene,
) -> None:
    await gateway.start(websocket=BEHIND)
    for headers in ({"X-Forwarded-For": "2001:db8::5"}, {}):
        await gateway.open_remote(known=False, headers=headers)
    askers = {source._asker for source in gateway.public.sources}
    assert askers == {"2001:db8::/64", REMOTE}


def key(sender: str) -> bytes:
    return (
        f"<db:result xmlns:db='jabber:server:dialback' from='{sender}' to='{LOCAL}'>key</db:result>"
    ).encode()


async def answer_to_key(
    gateway: GatewayScene, peer: Peer, sender: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """What a key of another domain on the same stream meets: valid, or the condition."""
    answers: list[str] = []
    answer = ReceivingStream.answer_dialback

    def noted(stream: ReceivingStream, **told: str) -> None:
        answers.append(told["error"] if told["outcome"] == "error" else told["outcome"])
        answer(stream, **told)

    monkeypatch.setattr(ReceivingStream, "answer_dialback", noted)
    peer.session.stream.outgoing.append(key(sender))
    peer.session.write()
    await until(lambda: answers)
    return answers[0]


@on_quiet_loop
async def test_a_key_is_not_asked_about_where_the_certificate_says_more(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    await gateway.open_remote(use_external=False)
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "certificate"
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_dialback_may_be_bound_to_a_certificate(gateway: GatewayScene) -> None:
    await gateway.start(remote={"auth": ("dialback-with-cert",)})
    with pytest.raises(HopFailed, match=r"not-authorized.*no certificate was presented"):
        await gateway.open_remote(known=False)
    assert not gateway.remote.sessions
    await gateway.open_remote()  # EXTERNAL is not offered
    (shown,) = gateway.public.describe()
    assert shown["authenticated_by"] == "dialback"
    assert len(gateway.remote.sessions) == 1


@on_quiet_loop
async def test_each_domain_that_joins_a_stream_is_judged_by_itself(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.remote_pair = load_pair(*gateway._files(REMOTE, "second.example"))
    await gateway.start()
    third = Remote(url=gateway.remote.url, auth=("dialback-with-cert",))
    gateway.config.remote["third.example"] = third
    peer = await gateway.open_remote()
    assert await answer_to_key(gateway, peer, "second.example", monkeypatch) == "valid"
    assert await answer_to_key(gateway, peer, "third.example", monkeypatch) == "not-authorized"
    (source,) = gateway.public.sources
    assert source.pairs == {
        DomainPair(LOCAL, REMOTE): "external",
        DomainPair(LOCAL, "second.example"): "certificate",
    }
    assert not gateway.remote.sessions


@pytest.mark.parametrize("external", [True, False])
@on_quiet_loop
async def test_a_session_ends_when_the_certificate_lapses_and_goes_on_with_a_new_one(
    gateway: GatewayScene, external: bool
) -> None:
    renewed = gateway.remote_pair
    gateway.remote_pair = lapsing(gateway, REMOTE)
    await gateway.start()
    options = {"use_external": external, "resumption_seconds": 60}
    peer = await gateway.open_remote(**options)
    peer.send(message("1", sender=REMOTE, target=LOCAL))
    await until(lambda: gateway.local.got)
    await until(lambda: peer.ended)
    (failed,) = [event for event in peer.events if isinstance(event, StreamFailed)]
    assert (failed.condition, failed.by_peer) == (StreamCondition.RESET, True)

    gateway.remote_pair = renewed
    lost = peer.session.stream.suspended()
    assert (lost is not None) is external  # what has no XEP-0198 cannot be resumed
    again = await gateway.open_remote(**options, resume=lost)
    assert again.session.stream.resumed is external


def lapsing(gateway: GatewayScene, domain: str) -> KeyPair:
    """A certificate that is good for two seconds or less."""
    issued = gateway.public_ca.issue(domain, not_after=datetime.now(UTC) + timedelta(seconds=2))
    return load_pair(issued.certificate, issued.key)
