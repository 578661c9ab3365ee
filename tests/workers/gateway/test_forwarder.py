import dns.message
import pytest

from coordinator.address import Address, InvalidAddress
from tests.workers.gateway.upstream import Upstream
from workers.gateway.dnsmessage import read_question
from workers.gateway.forwarder import Forwarder, ForwardFailed, system_resolvers, upstream_address


@pytest.fixture
async def upstream():
    server = await Upstream({("host.example", "A"): ["192.0.2.7"]}).start()
    yield server
    await server.stop()


def query(name="host.example"):
    packet = dns.message.make_query(name, "A").to_wire()
    return packet, read_question(packet)


@pytest.mark.parametrize("method", ["ask", "ask_tcp"])
async def test_the_answer_comes_under_the_id_of_the_query(upstream, method):
    packet, question = query()
    answer = await getattr(Forwarder([upstream.address]), method)(packet, question)
    assert dns.message.from_wire(packet).is_response(dns.message.from_wire(answer))
    assert answer[:2] == packet[:2]


async def test_a_slow_server_may_still_answer_while_the_next_is_asked(upstream, monkeypatch):
    monkeypatch.setattr("workers.gateway.forwarder._ATTEMPT_SECONDS", 0.01)
    held = []
    upstream.forge = lambda answer: held.append(answer) or []
    silent = await Upstream().start()

    def release(_answer):
        upstream._udp.sendto(held[0], upstream.client)
        return []

    original = upstream.datagram_received

    def remember(data, addr):
        upstream.client = addr
        original(data, addr)

    upstream.datagram_received = remember
    silent.forge = release
    answer = await Forwarder([upstream.address, silent.address]).ask(*query())
    assert dns.message.from_wire(answer).answer[0].to_text() == "host.example. 60 IN A 192.0.2.7"
    await silent.stop()


async def test_too_many_questions_at_once_are_refused(upstream, monkeypatch):
    monkeypatch.setattr("workers.gateway.forwarder._MAX_IN_FLIGHT", 0)
    with pytest.raises(ForwardFailed, match="too many"):
        await Forwarder([upstream.address]).ask(*query())


async def test_without_servers_every_question_fails_at_once(caplog):
    forwarder = Forwarder(["127.0.0.1:53"], own=Address("127.0.0.1", 53))
    assert "local.upstream_dns" in caplog.text
    for ask in (forwarder.ask, forwarder.ask_tcp):
        with pytest.raises(ForwardFailed):
            await ask(*query())
    assert forwarder.in_flight == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", Address("192.0.2.1", 53)),
        ("192.0.2.1:5353", Address("192.0.2.1", 5353)),
        ("2001:db8::1", Address("2001:db8::1", 53)),
        ("[2001:db8::1]", Address("2001:db8::1", 53)),
        ("[2001:db8::1]:54", Address("2001:db8::1", 54)),
    ],
)
def test_addresses_are_read_with_and_without_port(text, expected):
    assert upstream_address(text) == expected


@pytest.mark.parametrize("text", ["", "dns.example", "dns.example:53", "192.0.2.1:x"])
def test_names_and_nonsense_are_no_addresses(text):
    with pytest.raises(InvalidAddress):
        upstream_address(text)


def test_the_servers_of_the_system_are_read(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# x\nsearch example\nnameserver 192.0.2.1\n nameserver 2001:db8::1\nnameserver\n"
    )
    assert system_resolvers(str(file)) == ["192.0.2.1", "2001:db8::1"]
    file.write_text("nameserver fe80::1%eth0\n")
    assert system_resolvers(str(file)) == ["127.0.0.1"]
    assert system_resolvers(str(tmp_path / "none")) == ["127.0.0.1"]
