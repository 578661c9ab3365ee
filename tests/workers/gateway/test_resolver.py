from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.workers.gateway.stub_dns import StubDns
from workers.gateway.resolver import (
    ResolveFailed,
    Resolver,
    ServiceNotOffered,
    ServiceTarget,
    in_order,
)


@pytest_asyncio.fixture
async def dns() -> AsyncIterator[StubDns]:
    server = await StubDns.start()
    yield server
    server.close()


@pytest.fixture
def resolver(dns: StubDns) -> Resolver:
    return Resolver([dns.address], timeout=0.5)


async def test_addresses_are_ipv4_first(dns, resolver):
    dns.records["gw.a.example", "A"] = ["192.0.2.1", "192.0.2.2"]
    dns.records["gw.a.example", "AAAA"] = ["2001:db8::1"]
    found = await resolver.addresses("gw.a.example")
    assert sorted(found[:2]) == ["192.0.2.1", "192.0.2.2"]
    assert found[2:] == ["2001:db8::1"]


async def test_one_family_is_enough_even_when_the_other_fails(dns, resolver):
    dns.records["six.a.example", "AAAA"] = ["2001:db8::1"]
    assert await resolver.addresses("six.a.example") == ["2001:db8::1"]
    dns.records["four.a.example", "A"] = ["192.0.2.1"]
    dns.records["four.a.example", "AAAA"] = "SERVFAIL"
    assert await resolver.addresses("four.a.example") == ["192.0.2.1"]


async def test_literals_are_their_own_answer(dns, resolver):
    assert await resolver.addresses("192.0.2.9") == ["192.0.2.9"]
    assert await resolver.addresses("[2001:DB8::9]") == ["2001:db8::9"]
    assert not dns.asked


async def test_answers_are_kept_by_their_ttl(dns, resolver):
    dns.records["a.example", "A"] = ["192.0.2.1"]
    for _ in range(3):
        await resolver.addresses("a.example")
    assert dns.asked["a.example", "A"] == 1


async def test_names_without_addresses_fail_for_good(dns, resolver):
    with pytest.raises(ResolveFailed, match=r"a\.example does not exist in DNS") as caught:
        await resolver.addresses("a.example")
    assert not caught.value.temporary
    dns.records["b.example", "TXT"] = ["x"]
    with pytest.raises(ResolveFailed, match=r"b\.example has no address"):
        await resolver.addresses("b.example")


async def test_servers_that_fail_or_are_silent_fail_for_now(dns, resolver):
    dns.records["a.example", "A"] = "SERVFAIL"
    with pytest.raises(ResolveFailed) as caught:
        await resolver.addresses("a.example")
    assert caught.value.temporary
    assert "\n" not in caught.value.reason
    dns.records["b.example", "A"] = None
    with pytest.raises(ResolveFailed, match="in time") as caught:
        await resolver.addresses("b.example")
    assert caught.value.temporary


async def test_names_that_dns_cannot_hold_fail(resolver):
    with pytest.raises(ResolveFailed):
        await resolver.addresses("x" * 64 + ".example")


async def test_services_come_in_order(dns, resolver):
    dns.records["_xmpp-server._tcp.a.example", "SRV"] = [
        "20 0 5269 second.example.",
        "10 0 5270 First.example.",
    ]
    assert await resolver.srv("_xmpp-server._tcp", "a.example") == [
        ServiceTarget("first.example", 5270, 10, 0),
        ServiceTarget("second.example", 5269, 20, 0),
    ]


async def test_a_domain_without_the_service_has_no_targets(dns, resolver):
    assert await resolver.srv("_xmpp-server._tcp", "a.example") == []
    dns.records["_xmpp-server._tcp.b.example", "TXT"] = ["x"]
    assert await resolver.srv("_xmpp-server._tcp", "b.example") == []


async def test_a_dot_says_the_service_is_not_offered(dns, resolver):
    dns.records["_xmpp-server._tcp.a.example", "SRV"] = ["0 0 0 ."]
    with pytest.raises(ServiceNotOffered):
        await resolver.srv("_xmpp-server._tcp", "a.example")


async def test_a_failing_server_is_not_taken_for_no_service(dns, resolver):
    dns.records["_xmpp-server._tcp.a.example", "SRV"] = "SERVFAIL"
    with pytest.raises(ResolveFailed):
        await resolver.srv("_xmpp-server._tcp", "a.example")


def test_weights_decide_among_equals():
    light, heavy = ServiceTarget("light", 1, 5, 0), ServiceTarget("heavy", 1, 5, 100)
    assert in_order([heavy, light], pick=lambda low, high: low) == [light, heavy]
    assert in_order([heavy, light], pick=lambda low, high: high) == [heavy, light]
    one, three = ServiceTarget("one", 1, 5, 1), ServiceTarget("three", 1, 5, 3)
    firsts = Counter(in_order([one, three], pick=lambda a, b, p=p: min(p, b))[0] for p in range(5))
    assert firsts == {one: 2, three: 3}


def test_priority_beats_weight():
    last, first = ServiceTarget("last", 1, 9, 65535), ServiceTarget("first", 1, 1, 0)
    assert in_order([last, first]) == [first, last]


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:5353", "[::1]:53", "::1"])
def test_upstream_servers_may_have_a_port(text):
    assert Resolver([text])


@pytest.mark.parametrize("text", ["dns.example", "192.0.2.1:x", "192.0.2.1:0", ":53", ""])
def test_upstream_servers_must_be_addresses(text):
    with pytest.raises(ValueError, match="not the address of a DNS server"):
        Resolver([text])


def test_the_systems_servers_are_the_default(tmp_path):
    assert Resolver()
