"""Sessions that remote servers open: their stanzas reach the local server, or senders are told."""

import asyncio

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
from workers.gateway.failure import HopFailed
from workers.gateway.websocket_session import WebSocketSession


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


@on_quiet_loop
async def test_a_domain_may_have_so_many_sessions(gateway: GatewayScene) -> None:
    await gateway.start(sessions_per_domain=2)
    peers = [await gateway.open_remote() for _ in range(2)]
    with pytest.raises(HopFailed, match="too many sessions of this domain"):
        await gateway.open_remote()
    assert gateway.public.refusals.counts == {"sessions-of-domain": 1}
    peers[0].session.close()
    await until(lambda: len(gateway.public.sources) == 1)
    await gateway.open_remote()


@on_quiet_loop
async def test_those_who_come_at_once_are_no_more_than_so_many(gateway: GatewayScene) -> None:
    await gateway.start(sessions_per_domain=2)
    opened = await asyncio.gather(
        *(gateway.open_remote() for _ in range(6)), return_exceptions=True
    )
    refused = [each for each in opened if isinstance(each, BaseException)]
    assert all("too many sessions of this domain" in str(each) for each in refused)
    assert len(refused) == 4 == gateway.public.refusals.counts["sessions-of-domain"]
    await until(lambda: len(gateway.public.sources) == 2)


@on_quiet_loop
async def test_who_does_not_authenticate_in_time_is_told_and_counted(
    gateway: GatewayScene,
) -> None:
    await gateway.start(authentication_timeout=0.3)
    stranger = await gateway.open_remote(known=False, verify_only=True)
    await until(lambda: stranger.ended)
    assert "connection-timeout" in stranger.ended[0]
    assert gateway.public.refusals.counts == {"slow": 1}


@on_quiet_loop
async def test_both_kinds_of_session_of_one_owner_share_what_it_may_send(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    local, peer = await gateway.open_local(), await gateway.open_remote()
    local.send(message("1"))
    await until(lambda: gateway.remote.got)
    (ours,) = [hop for way, hop in gateway.router.hops() if way == "outbound"]
    assert isinstance(ours.session, WebSocketSession)
    (source,) = gateway.public.sources
    assert ours.session.websocket.meter is source.session.websocket.meter is not None
    assert not peer.ended
