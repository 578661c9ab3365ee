import pytest

from coordinator.config import Config, Gateway, Local
from workers.gateway.clients import Clients


def clients(**local):
    return Clients(Config(gateway=Gateway(domains=("a.example",)), local=Local(**local)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_ask(host):
    assert clients().may_ask(host)


def test_the_local_server_may_ask_wherever_it_runs():
    asked = clients(server={"a.example": "192.0.2.5:5269", "*": "203.0.113.6:5269"})
    assert asked.may_ask("192.0.2.5")
    assert not asked.may_ask("203.0.113.6")  # serves no domain of ours
    assert not clients(server="xmpp.a.example:5269").may_ask("203.0.113.5")


def test_configured_networks_may_ask():
    asked = clients(dns_clients=("192.0.2.0/24", "2001:db8::/32"))
    for host in ("192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1"):
        assert asked.may_ask(host)
    assert not asked.may_ask("198.51.100.1")


@pytest.mark.parametrize(
    "host", ["203.0.113.9", "::ffff:203.0.113.9", "2001:db8::1", "fe80::1%eth9"]
)
def test_nobody_else_may(host, caplog):
    asked = clients()
    assert not asked.may_ask(host) and not asked.may_ask(host)
    assert caplog.text.count("local.dns_clients") == 1


def test_the_log_does_not_grow_with_forged_addresses(caplog):
    asked = clients()
    assert not any(asked.may_ask(f"2001:db8::{n:x}") for n in range(200))
    assert caplog.text.count("local.dns_clients") == 100
