"""All components of a gateway: declared, shared between hops, given up, taken over."""

import hashlib
from dataclasses import replace

import pytest

from coordinator.address import Address
from coordinator.config import Config, Gateway, Local, Remote
from coordinator.routes import Route
from tests.workers.gateway.component_bench import PAIR, ROOMS, SECRET, ComponentScene
from tests.workers.gateway.session_bench import LOCAL, REMOTE, message, on_quiet_loop, until
from workers.gateway.component import declared, servers
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import NoOwner


@on_quiet_loop
async def test_stanzas_go_both_ways_on_one_stream(component: ComponentScene) -> None:
    await component.start()
    component.server.send(message("out-1"), message("out-2"))
    component.from_remote("in-1")
    component.from_remote("in-2", local=ROOMS)
    await until(lambda: len(component.far.got) == len(component.server.got) == 2)

    assert component.far.ids() == ["out-1", "out-2"]
    assert component.far.got[0].data.endswith(b"<body>hi</body></message>")
    assert b"component" not in component.far.got[0].data
    assert set(component.server.ids()) == {"in-1", "in-2"}
    assert len(component.server.writers) == 1
    assert component.server.proofs == [hashlib.sha1(f"an-id{SECRET}".encode()).hexdigest()]
    await until(lambda: component.ledger("inbound")["acknowledged"] == 2)
    assert component.ledger("inbound")["acknowledged_by"]["xmpp-ping"] == 2
    await until(lambda: component.ledger("outbound")["acknowledged"] == 2)


@on_quiet_loop
async def test_the_stream_is_shown(component: ComponentScene) -> None:
    await component.start()
    [shown] = component.attachment.describe()
    assert shown["domain_pairs"] == [[LOCAL, REMOTE], [ROOMS, REMOTE]]
    assert (shown["direction"], shown["authenticated_by"]) == ("local", "component")
    assert shown["state"] == "established"
    assert component.attachment.routes == 1

    await component.server.stop()
    await until(lambda: not component.attachment.sources)
    [shown] = component.attachment.describe()
    assert shown["state"] == "connecting"


@on_quiet_loop
async def test_only_declared_domains_have_a_way_to_the_local_server(
    component: ComponentScene,
) -> None:
    await component.start()
    with pytest.raises(HopFailed, match="not declared under"):
        await component.connector.connect(LOCAL, "other.example", NoOwner())
    with pytest.raises(HopFailed, match="no dialback"):
        await component.connector.connect(LOCAL, REMOTE, NoOwner(), verify_only=True)


@on_quiet_loop
async def test_another_workers_component_is_left_alone_until_it_lets_go(
    component: ComponentScene,
) -> None:
    component.control.routes[PAIR] = Route("gw/w2.1", 1)
    await component.start(connected=False)
    with pytest.raises(HopFailed, match=r"worker gw/w2\.1 has it"):
        await component.link.lane(NoOwner(), timeout=0.05)
    assert component.server.attempts == 0

    del component.control.routes[PAIR]
    await until(lambda: component.attachment.sources)


@on_quiet_loop
async def test_a_component_of_another_machine_is_taken_when_that_is_gone(
    component: ComponentScene,
) -> None:
    component.control.routes[PAIR] = Route("other/w1.1", 1)
    component.control.workers.append("other/w1.1")
    await component.start(connected=False)
    await until(lambda: component.link.problem)
    del component.control.routes[PAIR]
    component.control.workers.remove("other/w1.1")
    await until(lambda: component.attachment.sources)


@on_quiet_loop
async def test_a_lost_route_ends_the_stream_in_order(component: ComponentScene) -> None:
    await component.start()
    component.lose_route("gw/w2.1")
    await until(lambda: component.server.footers == 1)
    await until(lambda: not component.attachment.sources)
    assert component.attachment.routes == 0

    del component.control.routes[PAIR]
    await until(lambda: component.attachment.sources)


@on_quiet_loop
async def test_the_next_worker_waits_for_what_is_under_way(component: ComponentScene) -> None:
    await component.start()
    component.far.handles = False
    component.server.send(message("1"))
    await until(lambda: component.far.got)
    component.attachment.stop()
    for source in component.attachment.sources:
        source.close()
    await until(lambda: not component.attachment.sources)
    assert component.control.is_used is not None
    assert component.control.is_used(PAIR)
    component.far.sessions[0].mark_handled(1)
    closing = component.router.to_remote(PAIR).close()
    await closing
    await until(lambda: PAIR in component.control.released)
    assert not component.control.is_used(PAIR)


@on_quiet_loop
async def test_a_reload_connects_and_ends_components(component: ComponentScene) -> None:
    await component.start()
    component.server.names.add("third.example")
    component.config.become(
        replace(component.config, remote={REMOTE: Remote(), "third.example": Remote()})
    )
    component.attachment.reload()
    await until(lambda: len(component.attachment.sources) == 2)
    assert component.server.footers == 0

    component.config.become(replace(component.config, remote={"third.example": Remote()}))
    component.attachment.reload()
    await until(lambda: component.server.footers == 1)
    await until(lambda: PAIR in component.control.released)
    [source] = component.attachment.sources
    assert source.remote == "third.example"


def test_blocked_domains_and_the_default_are_no_components() -> None:
    config = Config(remote={"a.example": Remote(), "*": Remote(), "b.example": Remote(block=True)})
    assert declared(config) == ("a.example",)


def test_each_local_server_is_connected_for_its_own_domains() -> None:
    config = Config(
        gateway=Gateway(domains=("a.example", "b.example", "c.example")),
        local=Local(server={"b.example": "127.0.0.2:1", "*": "0.0.0.0:2"}),
    )
    assert servers(config) == {
        Address("127.0.0.1", 2): ("a.example", "c.example"),
        Address("127.0.0.2", 1): ("b.example",),
    }
