"""Strangers are counted in all and by address; those who have proved themselves are not."""

from workers.gateway.admission import Admission


def test_one_address_cannot_take_every_place() -> None:
    admission = Admission(3, 2)
    assert [admission.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert admission.enter("192.0.2.2")
    assert not admission.enter("192.0.2.3")
    admission.leave("192.0.2.1")
    assert admission.enter("192.0.2.3")
    assert not admission.enter("192.0.2.1")


def test_an_ipv6_peer_has_a_whole_network() -> None:
    admission = Admission(10, 1)
    assert admission.enter("2001:db8::1")
    assert not admission.enter("2001:db8::2")
    admission.leave("2001:db8::1")
    assert admission.enter("2001:db8::2")


def test_a_proxy_stands_for_many() -> None:
    admission = Admission(3, 1, proxies=("10.0.0.0/8",))
    assert [admission.enter("::ffff:10.0.0.1") for _ in range(4)] == [True, True, True, False]


def test_nothing_is_kept_of_who_has_left() -> None:
    admission = Admission(10, 5)
    for number in range(5):
        admission.enter(f"192.0.2.{number}")
    for number in range(5):
        admission.leave(f"192.0.2.{number}")
    assert not admission._inside
