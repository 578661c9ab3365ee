"""The stage's DNS server answers what was set and nothing else."""

import dns.message
import dns.rcode
import pytest

from loadtest.stage.dns import StageDns


@pytest.fixture
def server() -> StageDns:
    server = StageDns("127.0.0.1")
    server.set_xmpp_server("capulet.example", "127.0.0.9", 5269)
    return server


def ask(server: StageDns, name: str, kind: str) -> dns.message.Message:
    return dns.message.from_wire(server.answer(dns.message.make_query(name, kind).to_wire()))


def test_a_published_server_is_found(server: StageDns) -> None:
    answer = ask(server, "_xmpp-server._tcp.Capulet.example", "SRV")
    assert "0 0 5269 127.0.0.9." in answer.answer[0].to_text()


def test_a_target_that_is_an_address_resolves_to_itself(server: StageDns) -> None:
    assert "127.0.0.9" in ask(server, "127.0.0.9.", "A").answer[0].to_text()


def test_a_known_name_without_such_a_record_has_no_data(server: StageDns) -> None:
    answer = ask(server, "capulet.example", "A")
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


def test_what_was_never_set_does_not_exist(server: StageDns) -> None:
    assert ask(server, "nowhere.example", "A").rcode() == dns.rcode.NXDOMAIN


def test_a_removed_domain_does_not_exist(server: StageDns) -> None:
    server.remove("capulet.example")
    answer = ask(server, "_xmpp-server._tcp.capulet.example", "SRV")
    assert answer.rcode() == dns.rcode.NXDOMAIN
