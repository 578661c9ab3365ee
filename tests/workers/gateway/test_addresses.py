import pytest

from workers.gateway.addresses import (
    AddressPolicy,
    AddressRefused,
    Networks,
    is_of_this_machine,
    network_of,
)

REFUSED = {
    "0.0.0.0": "unspecified",
    "::": "unspecified",
    "127.0.0.1": "loopback",
    "127.9.9.9": "loopback",
    "::1": "loopback",
    "169.254.169.254": "metadata",
    "100.100.100.200": "metadata",
    "fd00:ec2::254": "metadata",
    "169.254.1.1": "link-local",
    "fe80::1%eth0": "link-local",
    "10.1.2.3": "private",
    "172.31.255.255": "private",
    "192.168.0.1": "private",
    "fd12::1": "private",
    "fec0::1": "private",
    "100.64.0.1": "carrier-grade NAT",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "broadcast",
    "198.18.0.1": "IETF-reserved",
    "192.0.2.1": "documentation",
    "2001:db8::1": "documentation",
    "::ffff:10.0.0.1": "private",
    "::ffff:127.0.0.1": "loopback",
    "::10.0.0.1": "private",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b:1::127.0.0.1": "local translation",
    "64:ff9b:1:7f00:0:100::": "local translation",
    "::ffff:0:127.0.0.1": "loopback",
    "2002:7f00:1::": "loopback",
    "2001:0:7f00:1::f5ff:fffe": "private",
    "2001:2::1": "not a public address",
    "3fff::1": "documentation",
    "5f00::1": "not a public address",
    "1::1": "not a public address",
    "2606:2800:220:1::1%eth0": "interface",
    "localhost": "not an IP address",
    "2130706433": "not an IP address",
    "0x7f.1": "not an IP address",
    "": "not an IP address",
}
PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::93.184.216.34"]


@pytest.mark.parametrize(("address", "reason"), REFUSED.items())
def test_addresses_that_are_not_public_are_refused_with_the_reason(address, reason):
    with pytest.raises(AddressRefused, match=reason):
        AddressPolicy().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address):
    AddressPolicy().check(address)


def test_the_reason_names_the_option():
    with pytest.raises(AddressRefused, match=r"discovery\.allow_networks"):
        AddressPolicy().check("10.0.0.1")


def test_allowed_networks_pass_in_every_disguise_and_no_others():
    policy = AddressPolicy(["10.1.0.0/16", "fd00::/8"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1"):
        policy.check(address)
    for address in ("10.2.0.1", "127.0.0.1", "::1"):
        with pytest.raises(AddressRefused):
            policy.check(address)


def test_permitted_keeps_order_and_drops_doubles():
    given = ["93.184.216.34", "10.0.0.1", "2606:2800:220:1::1", "93.184.216.34", "junk"]
    assert AddressPolicy().permitted(given) == ["93.184.216.34", "2606:2800:220:1::1"]


def test_a_network_that_is_none_is_an_error_at_start():
    with pytest.raises(ValueError, match="nonsense"):
        AddressPolicy(["nonsense"])


def test_one_peer_may_have_a_whole_ipv6_network():
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("") == ""


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("2001:db8::5", True),
        ("fe80::1%eth0", True),
        ("::1", False),
        ("", False),
        ("a name", False),
    ],
)
def test_networks_know_every_form_of_an_address(address: str, is_inside: bool) -> None:
    networks = Networks(("10.0.0.0/8", "2001:db8::/32", "fe80::/10"))
    assert (address in networks) is is_inside


def test_native_servers_may_be_behind_nat_and_nowhere_else():
    policy = AddressPolicy(["127.0.5.0/24"], private=True)
    for address in ("10.1.2.3", "fd12::1", "100.64.0.1", "::ffff:192.168.0.1", "127.0.5.1"):
        policy.check(address)
    for address in ("127.0.0.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::1"):
        with pytest.raises(AddressRefused):
            policy.check(address)
    for address in ("0.0.0.0", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b:1::1"):
        with pytest.raises(AddressRefused):
            policy.check(address)


def test_addresses_of_this_machine_are_known():
    assert is_of_this_machine("127.0.0.1")
    assert not is_of_this_machine("203.0.113.77") and not is_of_this_machine("2001:db8::77")
