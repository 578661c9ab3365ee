"""Streams from the local server: accepted, bounced, verified, closed in order."""

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
from workers.gateway import local_source
from workers.gateway.asking import BARRIER
from workers.gateway.failure import HopFailed
from workers.gateway.local_source import LocalSource
from workers.xmpp.events import Authenticated, StreamOpened
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.stanza import Stanza


@on_quiet_loop
async def test_stanzas_reach_the_remote_and_are_acknowledged_when_it_has_them(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    gateway.remote.handles = False
    peer.send(message("1"), message("2"))
    await until(lambda: len(gateway.remote.got) == 2)
    assert (peer.acknowledged(), gateway.ledger("outbound")["in_flight"]) == (0, 2)
    gateway.remote.sessions[0].mark_handled(2)
    await until(lambda: peer.acknowledged() == 2)
    gateway.check_ledger()


@on_quiet_loop
async def test_a_domain_that_cannot_be_reached_bounces_and_says_so(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_source, "BOUNCING_TIME", 0.05)
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    await gateway.start()
    peer = await gateway.open_local()
    peer.send(message("1"), request("2"))
    await until(lambda: len(gateway.local.got) == 2)
    assert [(s.id, s.type, s.sender) for s in gateway.local.got] == [
        ("1", "error", f"b@{REMOTE}"),
        ("2", "error", f"b@{REMOTE}"),
    ]
    assert b"remote-server-timeout" in gateway.local.got[0].data
    await until(lambda: peer.ended)
    assert gateway.ledger("outbound")["bounced"] == peer.acknowledged() == 2
    await until(lambda: PAIR in gateway.control.released)


@on_quiet_loop
async def test_a_blocked_domain_is_answered_with_errors(gateway: GatewayScene) -> None:
    await gateway.start(remote={"block": True})
    peer = await gateway.open_local()
    peer.send(message("1"))
    await until(lambda: gateway.local.got)
    assert gateway.local.got[0].type == "error"
    assert not gateway.remote.sessions


@on_quiet_loop
async def test_a_stranger_with_another_key_gets_nothing_through(gateway: GatewayScene) -> None:
    """Neither pinned nor verifying; its dialback key is not the local server's own."""
    await gateway.start()
    gateway.local.verdict = "invalid"
    with pytest.raises(HopFailed, match="dialback"):
        await gateway.open_local(known=False)
    assert not gateway.remote.got


@on_quiet_loop
async def test_a_server_without_its_key_may_prove_itself_by_dialback(
    gateway: GatewayScene,
) -> None:
    """The key is required where we connect to ask (design: trust on the local legs)."""
    await gateway.start()
    peer = await gateway.open_local(known=False)
    peer.send(message("1"))
    await until(lambda: gateway.remote.got)
    (source,) = gateway.listener.sources
    assert source.describe()["authenticated_by"] == "dialback"


@on_quiet_loop
async def test_a_key_of_the_remote_is_carried_to_the_remote(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    for id, verdict in (("one", "valid"), ("two", "invalid")):
        gateway.remote.verdict = verdict
        peer.session.stream.send_verify(sender=LOCAL, target=REMOTE, id=id, key="a key")
        peer.session.pump()
        await until(lambda: verdict in peer.answers())  # noqa: B023


@on_quiet_loop
async def test_a_stream_must_go_on_as_its_first_header_began(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    (source,) = gateway.listener.sources
    source.on_event(source.session, StreamOpened(LOCAL, "other.example", True))
    source.session.pump()
    await until(lambda: peer.ended)
    assert "invalid-from" in peer.ended[0]


@on_quiet_loop
async def test_answers_to_our_barriers_are_taken_out_and_nothing_else(
    gateway: GatewayScene,
) -> None:
    gateway.local.external = False  # no XEP-0198 towards it, like ejabberd
    await gateway.start()
    peer = await gateway.open_local()
    source = next(iter(gateway.listener.sources))
    seen: list[str] = []

    def answered(pair: DomainPair, token: str) -> bool:
        seen.append(token)
        return token != "unknown"

    gateway.listener.barrier_answered = answered  # type: ignore[method-assign]

    def iq(id: str, type: str, recipient: str) -> Stanza:
        return Stanza("iq", b"<iq/>", LOCAL, recipient, id, type, LOCAL, REMOTE)

    stanzas = [
        iq(f"{BARRIER}1", "result", REMOTE),
        iq(f"{BARRIER}2", "get", REMOTE),
        iq(f"{BARRIER}3", "result", f"b@{REMOTE}"),
        iq("4", "result", REMOTE),
        iq(f"{BARRIER}unknown", "result", REMOTE),
    ]
    left = source._without_barriers(stanzas)
    assert seen == ["1", "unknown"]
    assert left == stanzas[1:]
    assert peer.ended == []


@on_quiet_loop
async def test_a_lost_remote_is_reconnected_and_the_stream_stays(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    gateway.remote.handles = False
    peer.send(message("1"), request("2"))
    await until(lambda: len(gateway.remote.got) == 2)
    gateway.remote.handles = True
    gateway.remote.sessions[0].abort("gone")
    await until(lambda: peer.acknowledged() == 2)
    assert gateway.remote.ids() == ["1", "2", "1"]
    await until(lambda: gateway.local.got)
    assert [(s.id, s.type) for s in gateway.local.got] == [("2", "error")]
    assert not peer.ended
    ledger = gateway.ledger("outbound")
    assert (ledger["acknowledged"], ledger["bounced"], ledger["replayed"]) == (1, 1, 1)


@on_quiet_loop
async def test_a_remote_that_is_gone_for_good_ends_the_stream_after_its_bounces(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    gateway.remote.handles = False
    gateway.remote.external, gateway.remote.outcome = False, "invalid"
    peer.send(message("1"))
    await until(lambda: gateway.remote.got)
    gateway.remote.sessions[0].abort("gone")
    await until(lambda: peer.ended)
    assert peer.acknowledged() == 1
    await until(lambda: gateway.local.got)
    assert b"remote-server-timeout" in gateway.local.got[0].data


@on_quiet_loop
async def test_an_oversized_stanza_is_bounced_and_the_stream_stays(gateway: GatewayScene) -> None:
    gateway.remote.limits = type(gateway.remote.limits)(stanza_bytes=10_000)
    await gateway.start()
    peer = await gateway.open_local()
    peer.send(message("large", body="x" * 10_000), message("2"))
    await until(lambda: peer.acknowledged() == 2 and gateway.local.got)
    assert b"policy-violation" in gateway.local.got[0].data
    assert gateway.remote.ids() == ["2"]
    assert not peer.ended


@on_quiet_loop
async def test_a_header_and_an_end_in_one_read_leave_no_trace(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    source = next(iter(gateway.listener.sources))
    peer.session.close()
    await until(lambda: source.session.ended)
    # What a StreamOpened behind which the stream has closed leads to.
    source._on_opened(StreamOpened(*PAIR, True))
    assert not gateway.listener.sources


@on_quiet_loop
async def test_the_hop_loses_its_user_with_the_stream(gateway: GatewayScene) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    ((_, outbound),) = gateway.router.hops()
    assert outbound.users == 1
    peer.session.close()
    await until(lambda: not gateway.listener.sources)
    assert outbound.users == 0


DEEP = "<a>" * 90 + "</a>" * 90


@on_quiet_loop
async def test_one_users_refused_stanza_is_bounced_in_its_place(gateway: GatewayScene) -> None:
    """The stream, which all users share, goes on; what came before is acknowledged first."""
    await gateway.start()
    gateway.remote.handles = False
    peer = await gateway.open_local()
    error = message("error", body=DEEP)
    error.data, error.type = error.data.replace(b" id=", b" type='error' id="), "error"
    peer.send(message("1"), message("deep", body=DEEP), error, message("2"))
    await until(lambda: gateway.remote.ids() == ["1", "2"] and gateway.local.got)
    (bounced,) = gateway.local.got
    assert (bounced.id, bounced.type) == ("deep", "error")
    assert b"<error type='modify'>" in bounced.data or b'<error type="modify">' in bounced.data
    assert b"policy-violation" in bounced.data and DEEP.encode() not in bounced.data
    assert peer.acknowledged() == 0
    gateway.remote.sessions[0].mark_handled(1)
    await until(lambda: peer.acknowledged() == 3)
    gateway.remote.sessions[0].mark_handled(1)
    await until(lambda: peer.acknowledged() == 4)
    ledger = gateway.ledger("outbound")
    assert (ledger["accepted"], ledger["bounced"], ledger["dropped"]["type-error"]) == (4, 1, 1)
    assert not peer.ended
    gateway.check_ledger()


@on_quiet_loop
async def test_a_server_that_never_enables_acknowledgements_is_waited_for_once(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local(manages=False)
    peer.session.stream.send_stanzas([message("1"), message("2")])
    peer.session.write()
    await until(lambda: len(gateway.remote.got) == 2)
    assert gateway.listener.managing == {LOCAL: False}
    other = await gateway.open_local(manages=False)
    assert all(source._beginning is None for source in gateway.listener.sources)
    other.session.stream.send_stanzas([message("3")])
    other.session.write()
    await until(lambda: len(gateway.remote.got) == 3)


@on_quiet_loop
async def test_what_is_held_when_the_stream_breaks_goes_on(gateway: GatewayScene) -> None:
    await gateway.start()
    gateway.listener.managing[LOCAL] = True
    peer = await gateway.open_local(manages=False)
    peer.session.stream.send_stanzas([message("1")])
    peer.session.write()
    await until(lambda: gateway.ledger("outbound")["accepted"] == 1)
    assert not gateway.remote.got
    peer.session.abort("the local server dies")
    await until(lambda: gateway.remote.got)
    gateway.check_ledger()


@on_quiet_loop
async def test_a_stream_closed_while_it_is_being_opened_is_read_first(
    gateway: GatewayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prosody sends new stanzas right behind the header after SASL, and never again."""
    await gateway.start()
    authenticated, restart = LocalSource._on_authenticated, InitiatingStream._restart

    def close_then(self: LocalSource, event: Authenticated) -> None:
        authenticated(self, event)
        self.close()

    def send_behind_header(self: InitiatingStream) -> None:
        restart(self)
        if self.authenticated_by:
            self.outgoing.append(message("1").data)

    monkeypatch.setattr(LocalSource, "_on_authenticated", close_then)
    monkeypatch.setattr(InitiatingStream, "_restart", send_behind_header)
    await gateway.open_local(manages=False)
    await until(lambda: gateway.remote.got and not gateway.listener.sources)


@on_quiet_loop
async def test_an_id_may_be_used_anew_once_its_request_was_acknowledged(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    peer = await gateway.open_local()
    peer.send(request("1"))
    await until(lambda: peer.acknowledged() == 1)
    peer.session.close()
    await until(lambda: peer.ended)
    other = await gateway.open_local(manages=False)
    other.session.stream.send_stanzas([request("1")])
    other.session.write()
    await until(lambda: len(gateway.remote.got) == 2)
    assert gateway.ledger("outbound")["dropped"] == {}


@on_quiet_loop
async def test_a_request_that_comes_again_after_a_break_is_not_sent_twice(
    gateway: GatewayScene,
) -> None:
    await gateway.start()
    gateway.remote.handles = False
    peer = await gateway.open_local()
    peer.send(request("1"))
    await until(lambda: gateway.remote.got)
    peer.session.abort("the connection breaks")
    await until(lambda: not gateway.listener.sources)
    other = await gateway.open_local(manages=False)
    other.session.stream.send_stanzas([request("1"), message("2")])
    other.session.write()
    await until(lambda: len(gateway.remote.got) == 2)
    assert [stanza.id for stanza in gateway.remote.got] == ["1", "2"]
    assert gateway.ledger("outbound")["dropped"] == {"duplicate": 1}
