import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from coordinator import handover
from coordinator.handover import HandoverFailed, SocketKeeper, handover_path, receive_sockets


async def take(path: Path) -> dict[str, list[socket.socket]]:
    return await asyncio.to_thread(receive_sockets, path, timeout=2.0)


async def test_the_sockets_come_back_open_and_listening(tmp_path: Path):
    path = handover_path(tmp_path / ("long" * 40), "w1", 7)
    path.parent.mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.2", 0)) as two,
    ):
        keeper = SocketKeeper(path, {"websocket": [one.fileno(), two.fileno()], "local": []})
        keeper.start()
        assert path.stat().st_mode & 0o777 == 0o600
        addresses = [one.getsockname(), two.getsockname()]
    # The originals are closed: the copies alone keep the ports open.
    waiting = socket.create_connection(addresses[0])
    received = await take(path)
    again = await take(path)
    keeper.close()
    assert not path.exists()
    assert list(received) == ["websocket", "local"]
    assert [sock.getsockname() for sock in received["websocket"]] == addresses
    accepted, _ = received["websocket"][0].accept()
    assert not os.get_inheritable(received["websocket"][0].fileno())
    for sock in (waiting, accepted, *received["websocket"], *again["websocket"]):
        sock.close()


def test_nobody_there_is_said(tmp_path: Path):
    with pytest.raises(HandoverFailed, match="No such file"):
        receive_sockets(tmp_path / "w1.7.sockets")


def test_one_that_does_not_answer_is_not_waited_for(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(str(tmp_path / "w1.7.sockets"))
        deaf.listen(1)
        with pytest.raises(HandoverFailed, match="no answer in time"):
            receive_sockets(tmp_path / "w1.7.sockets", timeout=0.05)


@pytest.mark.parametrize("packet", [b"no JSON", b'{"websocket":2}', b'{"websocket":2,"local":-1}'])
async def test_an_answer_that_does_not_fit_is_refused_and_nothing_leaks(
    tmp_path: Path, packet: bytes
):
    path = tmp_path / "w1.7.sockets"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as liar:
        liar.bind(str(path))
        liar.listen(1)
        asking = asyncio.create_task(take(path))
        connection, _ = await asyncio.to_thread(liar.accept)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", liar.fileno()))]
        before = len(os.listdir("/proc/self/fd"))
        with connection:
            connection.sendmsg([packet], rights)
            with pytest.raises(HandoverFailed):
                await asking
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_other_users_get_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "w1.7.sockets"
    with socket.create_server(("127.0.0.1", 0)) as one:
        keeper = SocketKeeper(path, {"websocket": [one.fileno()]})
        keeper.start()
        monkeypatch.setattr(handover, "peer_uid", lambda connection: os.getuid() + 1)
        with pytest.raises(HandoverFailed):
            await take(path)
        keeper.close()
