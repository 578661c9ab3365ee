"""Channels for tests: made, and connected, in one step."""

import asyncio
import socket

from workers.gateway.channel import Channel, ChannelOwner, adopt_channel


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
