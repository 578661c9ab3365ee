"""Stages never meet: a slot is taken once, and not while anybody listens in it."""

import socket

from loadtest.stage.addresses import Addresses


def test_two_stages_have_different_slots() -> None:
    one, other = Addresses(), Addresses()
    assert one.slot != other.slot
    assert one.of(11) == f"127.{one.slot}.11.1"
    one.release()
    other.release()


def test_a_slot_in_which_somebody_listens_is_passed_over() -> None:
    killed = Addresses()
    with socket.socket() as survivor:
        survivor.bind((killed.of(21), 0))
        survivor.listen()
        killed.release()
        following = Addresses()
        assert following.slot != killed.slot
        following.release()
