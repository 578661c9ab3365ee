"""What every unix socket of ours needs: who is at the other end, what descriptors came along."""

import socket
import struct

_CREDENTIALS = struct.Struct("3i")


def received_sockets(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    """The sockets in the ancillary data of `recvmsg` (SCM_RIGHTS), non-blocking."""
    sockets = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            for (descriptor,) in struct.iter_unpack("i", data[:whole]):
                sock = socket.socket(fileno=descriptor)
                sock.setblocking(False)
                sockets.append(sock)
    return sockets


def peer_uid(connection: socket.socket) -> int:
    """The user of the process at the other end, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return int(uid)
