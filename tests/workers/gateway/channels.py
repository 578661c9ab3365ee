"""Channels for tests: made and connected in one step, with a raw peer, in pairs, under TLS."""

import asyncio
import socket

from tests.workers.gateway.wire_bench import RecordingOwner, mint_pem
from workers.gateway.certificates import parse_pair
from workers.gateway.channel import Channel, ChannelOwner, adopt_channel
from workers.gateway.tls import client_context, server_context

SERVER_PEM = mint_pem(["gw.example"])
SERVER = parse_pair(*SERVER_PEM)
CLIENT_PEM = mint_pem(["a.example"])
CLIENT = parse_pair(*CLIENT_PEM)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_channel(owner: ChannelOwner, address: tuple[str, int] | str) -> Channel:
    """Connect to (host, port) or a unix socket path. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    channel = Channel(owner)
    if isinstance(address, str):
        await loop.create_unix_connection(lambda: channel, address)
    else:
        await loop.create_connection(lambda: channel, *address)
    return channel


async def channel_on(
    owner: ChannelOwner, sock: socket.socket, *, quick_ack: bool = False
) -> Channel:
    """A channel on a connected socket. Raises `OSError`."""
    channel = Channel(owner, quick_ack=quick_ack)
    await adopt_channel(channel, sock)
    return channel


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def adopted(owner: RecordingOwner) -> tuple[Channel, socket.socket]:
    """Our channel on an accepted raw socket, and the peer's blocking socket."""
    with listening() as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    peer.setblocking(False)
    return await channel_on(owner, accepted), peer


async def adopted_with_streams(owner: RecordingOwner) -> tuple[Channel, Streams]:
    channel, peer = await adopted(owner)
    return channel, await asyncio.open_connection(sock=peer)


async def connected_pair() -> tuple[Channel, RecordingOwner, Channel, RecordingOwner]:
    owner, other = RecordingOwner(), RecordingOwner()
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Channel] = loop.create_future()

    def accept() -> Channel:
        channel = Channel(other)
        made.set_result(channel)
        return channel

    server = await loop.create_server(accept, sock=listening())
    channel = await open_channel(owner, server.sockets[0].getsockname())
    accepted = await made
    await other.wait_for("connected")
    server.close()
    return channel, owner, accepted, other


async def secured_pair() -> tuple[Channel, RecordingOwner, Channel, RecordingOwner]:
    client, client_owner, server, server_owner = await connected_pair()
    server.start_tls(server_context(SERVER), server=True)
    client.start_tls(client_context(CLIENT), server=False, server_name="gw.example")
    await client_owner.wait_for("tls_established")
    await server_owner.wait_for("tls_established")
    return client, client_owner, server, server_owner


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, with room for half a megabyte on its way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    return near, far


async def end(channel: Channel, owner: RecordingOwner, peer: socket.socket) -> None:
    channel.abort()
    await owner.wait_for("closed")
    peer.close()


class Reader(RecordingOwner):
    """Writes down who read how much, in the order of all readers."""

    def __init__(self, name: str, order: list[tuple[str, int]]) -> None:
        super().__init__()
        self.name = name
        self.order = order

    def data_received(self, data: bytes) -> None:
        self.order.append((self.name, len(data)))
        super().data_received(data)
