"""Sessions that remote servers open: who may say what, and that it reaches the local server."""

import pytest

from coordinator.routes import DomainPair
from tests.workers.gateway.gateway_bench import PAIR, GatewayScene
from tests.workers.gateway.session_bench import (
    LOCAL,
    REMOTE,
    message,
    on_quiet_loop,
    request,
    until,
)
from workers.gateway import remote_source
from workers.gateway.failure import HopFailed


@on_quiet_loop
async def test_stanzas_reach_the_local_server_and_are_acknowledged_then(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    gateway.local.handles = False
    peer = await gateway.open_remote()
    peer.send(message("1", sender=REMOTE, target=LOCAL))
    await until(lambda: gateway.local.got)
    assert (peer.acknowledged(), gateway.ledger("inbound")["in_flight"]) == (0, 1)
    gateway.local.sessions[0].mark_handled(1)
    await until(lambda: peer.acknowledged() == 1)
    (shown,) = gateway.public.describe()
    assert (shown["domain_pairs"], shown["authenticated_by"]) == ([list(PAIR)], "external")


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
    stream._out.append(
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
    peer.session.stream._out.append(
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
    monkeypatch.setattr(remote_source, "MAX_STRANGERS_QUESTIONS", 2)
    await gateway.start()
    gateway.local.verdict = ""
    peer = await gateway.open_remote(known=False, verify_only=True)
    for id in ("one", "two", "three", "four"):
        peer.session.stream.send_verify(sender=REMOTE, target=LOCAL, id=id, key="its own")
    peer.session.pump()
    await until(lambda: peer.answers() == ["error", "error"])


@on_quiet_loop
async def test_a_local_server_that_stays_away_bounces_to_the_remote(gateway: GatewayScene) -> None:
    await gateway.start()
    await gateway.local.close()
    peer = await gateway.open_remote()
    peer.send(message("1", sender=REMOTE, target=LOCAL), request("2", sender=REMOTE, target=LOCAL))
    await until(lambda: len(gateway.remote.got) == 2)
    assert [(s.id, s.type) for s in gateway.remote.got] == [("1", "error"), ("2", "error")]
    await until(lambda: gateway.ledger("inbound")["bounced"] == 2)


@on_quiet_loop
async def test_closing_acknowledges_everything_first(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.local.handles = False
    peer = await gateway.open_remote()
    peer.send(message("1", sender=REMOTE, target=LOCAL))
    await until(lambda: gateway.local.got)
    (source,) = gateway.public.sources
    source.close()
    source.close()
    peer.send(message("2", sender=REMOTE, target=LOCAL))  # comes again on its next stream
    gateway.local.sessions[0].mark_handled(1)
    await until(lambda: peer.ended)
    assert peer.acknowledged() == 1
    assert gateway.local.ids() == ["1"]


@on_quiet_loop
async def test_hops_lose_their_users_with_the_session(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_remote()
    peer.send(message("1", sender=REMOTE, target=LOCAL))
    await until(lambda: peer.acknowledged() == 1)
    hop = gateway.router.to_local(DomainPair(LOCAL, REMOTE))
    assert hop.users == 1
    peer.session.abort("gone")
    await until(lambda: not gateway.public.sources)
    assert hop.users == 0


@on_quiet_loop
async def test_one_users_refused_stanza_is_bounced_in_its_place(gateway: GatewayScene) -> None:
    """Too deep, or to a domain that the local server might read as another."""
    await gateway.start()
    peer = await gateway.open_remote()
    odd = message("odd", sender=REMOTE, target=LOCAL)
    odd.data = odd.data.replace(b"@capulet.example'", "@capulet\u3002example'".encode())
    deep = message("deep", sender=REMOTE, target=LOCAL, body="<a>" * 90 + "</a>" * 90)
    one, two = (message(id, sender=REMOTE, target=LOCAL) for id in ("1", "2"))
    peer.send(one, deep, odd, two)
    await until(lambda: gateway.local.ids() == ["1", "2"] and len(gateway.remote.got) == 2)
    assert [(s.id, s.type) for s in gateway.remote.got] == [("deep", "error"), ("odd", "error")]
    assert all(b"policy-violation" in stanza.data for stanza in gateway.remote.got)
    await until(lambda: peer.acknowledged() == 4)
    assert gateway.ledger("inbound")["bounced"] == 2 and not peer.ended
    gateway.check_ledger()
