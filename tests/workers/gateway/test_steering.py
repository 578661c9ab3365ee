import asyncio
import random
import socket

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config import Config, Gateway, Local, Remote
from tests.workers.gateway.upstream import Upstream
from workers.gateway.dnsmessage import Question
from workers.gateway.steering import Steering

OWN, CARRIED, NATIVE = "capulet.example", "montague.example", "escalus.example"
RECORDS = {
    (f"_xmpp-server._tcp.{NATIVE}", "SRV"): ["5 0 5269 xmpp.escalus.example."],
    (f"_xmpps-server._tcp.{NATIVE}", "SRV"): ["5 0 5270 xmpp.escalus.example."],
    (f"_xmpp-server._tcp.{CARRIED}", "SRV"): ["0 0 5269 real.montague.example."],
    (f"_xmpp-server._tcp.{OWN}", "SRV"): ["0 0 5269 real.capulet.example."],
    ("host.example", "A"): ["192.0.2.7"],
    ("large.example", "TXT"): ['"' + "x" * 250 + '"'] + [f'"{n}{"y" * 240}"' for n in range(20)],
}


def config(upstream="127.0.0.1:1", *, remote=None, **local):
    local = {"dns": "127.0.0.1:0", "listen": "127.0.0.1:5271", "upstream_dns": (upstream,)} | local
    return Config(gateway=Gateway(domains=(OWN,)), local=Local(**local), remote=remote or {})


def steering_for(**options):
    return Steering(config(**options), lambda domain: domain == NATIVE)


@pytest.fixture
async def upstream():
    server = await Upstream(RECORDS).start()
    yield server
    await server.stop()


@pytest.fixture
async def steering(upstream):
    server = steering_for(upstream=upstream.address)
    await server.start()
    yield server
    await server.close()


async def ask(steering, name, kind="SRV", *, tcp=False, **options):
    query = dns.message.make_query(name, kind, **options)
    host, port = steering.address
    exchange = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await exchange(query, host, timeout=5, port=port)


def records(answer):
    return [record.to_text() for rrset in answer.answer for record in rrset]


@pytest.mark.parametrize(
    ("domain", "options", "steered"),
    [
        (CARRIED, {}, True),
        (OWN, {}, False),
        (NATIVE, {}, False),
        (CARRIED, {"carry": "listed"}, False),
        (CARRIED, {"carry": "listed", "remote": {CARRIED: Remote(auth=("dialback",))}}, True),
        (CARRIED, {"carry": "listed", "remote": {"*": Remote()}}, False),
        (NATIVE, {"remote": {NATIVE: Remote(url="wss://gw.escalus.example/")}}, True),
        (NATIVE, {"remote": {NATIVE: Remote(auth=("dialback",))}}, False),
        (NATIVE, {"remote": {NATIVE: Remote(block=True)}}, True),
    ],
)
def test_who_is_steered(domain, options, steered):
    decision = steering_for(**options).decide(domain)
    assert decision.steered is steered
    assert decision.reason


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_carried_domain_leads_to_the_local_port_at_once(steering, upstream, tcp):
    answer = await ask(steering, f"_xmpp-server._tcp.{CARRIED}", tcp=tcp)
    assert records(answer) == ["0 0 5271 localhost."]
    assert answer.answer[0].ttl == 5
    direct = await ask(steering, f"_xmpps-server._tcp.{CARRIED}", tcp=tcp)
    assert (direct.rcode(), direct.answer) == (dns.rcode.NXDOMAIN, [])
    assert upstream.queries == []


async def test_names_are_compared_without_case_and_answered_as_asked(steering):
    answer = await ask(steering, f"_XMPP-Server._TCP.{CARRIED.title()}")
    assert records(answer) == ["0 0 5271 localhost."]
    assert answer.question[0].name.to_text() == "_XMPP-Server._TCP.Montague.Example."


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (f"_xmpp-server._tcp.{NATIVE}", "SRV", ["5 0 5269 xmpp.escalus.example."]),
        (f"_xmpps-server._tcp.{NATIVE}", "SRV", ["5 0 5270 xmpp.escalus.example."]),
        (f"_xmpp-server._tcp.{OWN}", "SRV", ["0 0 5269 real.capulet.example."]),
        ("host.example", "A", ["192.0.2.7"]),
        (f"_xmpp-client._tcp.{CARRIED}", "SRV", []),
        (CARRIED, "A", []),
        (f"_xmpp-server._tcp.{CARRIED}", "TXT", []),
    ],
)
async def test_all_else_is_what_the_upstream_server_says(steering, name, kind, expected, tcp):
    answer = await ask(steering, name, kind, tcp=tcp)
    assert records(answer) == expected
    assert answer.rcode() == (dns.rcode.NOERROR if expected else dns.rcode.NXDOMAIN)


async def test_a_query_is_forwarded_unchanged_under_another_id(steering, upstream):
    answer = await ask(steering, "host.example", "A", id=7, want_dnssec=True, payload=1400)
    assert answer.id == 7
    [seen] = upstream.queries
    assert (seen.payload, bool(seen.ednsflags & dns.flags.DO)) == (1400, True)


async def test_an_answer_too_large_for_udp_is_truncated_and_whole_by_tcp(steering):
    short = await ask(steering, "large.example", "TXT")
    assert short.flags & dns.flags.TC
    assert len(records(await ask(steering, "large.example", "TXT", tcp=True))) == 21


async def test_queries_under_way_do_not_mix(steering, upstream):
    upstream.records |= {(f"h{n}.example", "A"): [f"192.0.2.{n}"] for n in range(100)}
    answers = await asyncio.gather(*(ask(steering, f"h{n}.example", "A") for n in range(100)))
    assert [records(answer) for answer in answers] == [[f"192.0.2.{n}"] for n in range(100)]


async def test_forged_answers_are_passed_over(steering, upstream):
    def forge(answer):
        other = bytes([answer[0] ^ 1]) + answer[1:]
        yield from (b"", b"\0", other, answer[:12] + b"\5other" + answer[18:], answer)

    upstream.forge = forge
    assert records(await ask(steering, "host.example", "A")) == ["192.0.2.7"]


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_next_upstream_server_answers_for_a_dead_one(upstream, tcp):
    server = steering_for(upstream_dns=("127.0.0.1:1", upstream.address))
    await server.start()
    assert records(await ask(server, "host.example", "A", tcp=tcp)) == ["192.0.2.7"]
    await server.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_without_an_upstream_server_the_answer_is_a_failure(upstream, tcp, monkeypatch):
    monkeypatch.setattr("workers.gateway.forwarder._TOTAL_SECONDS", 0.05)
    upstream.silent = True
    server = steering_for(upstream=upstream.address)
    await server.start()
    answer = await ask(server, "host.example", "A", tcp=tcp)
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert records(await ask(server, f"_xmpp-server._tcp.{CARRIED}", tcp=tcp))
    assert server.counts == {"forwarded": 1, "failed": 1, "steered": 1}
    await server.close()


async def test_inherited_sockets_are_served_by_several_workers(upstream):
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    servers = [steering_for(upstream=upstream.address) for _ in range(2)]
    for server in servers:
        await server.start(udp=udp.dup(), tcp=tcp.dup())
    query = dns.message.make_query(f"_xmpp-server._tcp.{CARRIED}", "SRV")
    for sock, exchange in [(udp, dns.asyncquery.udp), (tcp, dns.asyncquery.tcp)] * 10:
        host, port = sock.getsockname()
        answer = await exchange(query, host, timeout=5, port=port)
        assert records(answer) == ["0 0 5271 localhost."]
    await servers[0].close()
    assert records(await ask(servers[1], f"_xmpp-server._tcp.{CARRIED}"))
    await servers[1].close()
    udp.close()
    tcp.close()


async def test_a_zone_transfer_is_refused(steering):
    host, port = steering.address
    query = dns.message.make_query("example", "AXFR")
    reader, writer = await asyncio.open_connection(host, port)
    wire = query.to_wire()
    writer.write(len(wire).to_bytes(2, "big") + wire)
    size = int.from_bytes(await reader.readexactly(2), "big")
    answer = dns.message.from_wire(await reader.readexactly(size))
    assert answer.rcode() == dns.rcode.REFUSED
    writer.close()
    await writer.wait_closed()


async def test_another_class_is_not_steered(steering, upstream):
    await ask(steering, f"_xmpp-server._tcp.{CARRIED}", rdclass="CH")
    assert len(upstream.queries) == 1


async def test_hostile_packets_neither_raise_nor_stop_the_service(steering):
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    noise = random.Random(5)
    whole = dns.message.make_query(f"_xmpp-server._tcp.{CARRIED}", "SRV", use_edns=0).to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(steering.address)
        for _ in range(500):
            broken = bytearray(whole[: noise.randrange(len(whole) + 1)] + noise.randbytes(4))
            for _ in range(3):
                broken[noise.randrange(len(broken))] = noise.randrange(256)
            sock.send(broken)
        sock.send(noise.randbytes(60000))
    reader, writer = await asyncio.open_connection(*steering.address)
    writer.write(b"\xff\xff" + b"\0" * 65535 + b"\0\0")
    assert dns.message.from_wire((await reader.read())[2:]).rcode() == dns.rcode.FORMERR
    writer.close()
    await writer.wait_closed()
    assert records(await ask(steering, f"_xmpp-server._tcp.{CARRIED}"))
    assert errors == []


@given(st.binary(max_size=512))
def test_any_packet_is_answered_forwarded_or_ignored(packet):
    assert isinstance(steering_for().answer(packet), bytes | Question | None)


async def test_our_own_address_is_not_our_upstream_server(caplog):
    # An address that nothing else binds: a port that is free for UDP may be taken for TCP.
    own = "127.77.53.1:5353"
    server = steering_for(upstream=own, dns=own)
    assert "set local.upstream_dns" in caplog.text
    await server.start()
    assert (await ask(server, "host.example", "A")).rcode() == dns.rcode.SERVFAIL
    await server.close()


@pytest.mark.parametrize("edns", [False, 0])
def test_strangers_get_a_refusal_that_is_no_longer_than_their_question(edns):
    steering = steering_for()
    sent = []
    steering._send = lambda packet, client: sent.append((packet, client))
    stranger = ("203.0.113.1", 53)
    for name, kind in ((CARRIED, "ANY"), (f"_xmpp-server._tcp.{CARRIED}", "SRV"), ("x" * 60, "A")):
        query = dns.message.make_query(name, kind, use_edns=edns).to_wire()
        steering.on_datagram(query, stranger)
        packet, client = sent.pop()
        assert client == stranger and len(packet) <= len(query)
        answer = dns.message.from_wire(packet)
        assert answer.rcode() == dns.rcode.REFUSED and not answer.answer
    assert not steering._queries  # nothing was asked above
    steering.on_datagram(b"", stranger)
    steering.on_datagram(b"\xff" * 40, stranger)
    assert not sent and steering.counts["strangers"] == 5
