"""Descriptors that come along, and whose they are."""

import os
import socket
import struct

from coordinator.unix_sockets import peer_uid, received_sockets


def test_sockets_that_came_along_are_ours() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, two = socket.socketpair()
    rights = struct.pack("2i", one.fileno(), two.fileno())
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    _, ancillary, _, _ = there.recvmsg(10, socket.CMSG_SPACE(8))
    received = received_sockets(ancillary)
    assert len(received) == 2 and not received[0].getblocking()
    received[0].send(b"hello")
    two.setblocking(True)
    assert two.recv(5) == b"hello"
    for sock in (*received, here, there, one, two):
        sock.close()


def test_other_ancillary_data_and_halves_are_left_out() -> None:
    assert received_sockets([(socket.SOL_SOCKET, 99, b"\0\0\0\0")]) == []
    assert received_sockets([(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0\0\0")]) == []


def test_the_kernel_knows_who_is_there() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    assert peer_uid(here) == os.getuid()
    here.close()
    there.close()
