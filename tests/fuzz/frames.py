"""WebSocket frames, both roles: the messages that `websockets` finds in them, whole or split."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from tests.fuzz.reading import MESSAGE, pieces
from workers.gateway.websocket import WebSocket

LARGEST = 600
LOOP = asyncio.new_event_loop()


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=mask)


TEXT, CONT, PING = Opcode.TEXT, Opcode.CONT, Opcode.PING
# The first byte chooses the role.
SEEDS = [
    b"\0" + frame(TEXT, MESSAGE) * 3 + frame(PING, b"p") + frame(TEXT, b"<a/>"),
    b"\0" + frame(TEXT, b"<a>", fin=False) + frame(PING, b"") + frame(CONT, b"</a>"),
    b"\0" + frame(Opcode.BINARY, b"x") + frame(TEXT, MESSAGE),
    b"\0" + frame(TEXT, b"x" * 700) + frame(Opcode.CLOSE, Close(1000, "bye").serialize()),
    b"\0" + frame(TEXT, MESSAGE, mask=False),
    b"\1" + frame(TEXT, MESSAGE, mask=False) * 2 + frame(Opcode.PONG, b"k", mask=False),
    b"\1" + frame(PING, b"", mask=False) * 200 + frame(TEXT, b"<a/>", mask=False),
    b"\1" + frame(CONT, b"x", mask=False) + b"\x81\x7f" + b"\xff" * 8,
]


class Socket:
    """What a channel writes to."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Owner:
    """Takes down what came."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ends: list[int] = []

    def websocket_opened(self, headers: Any) -> None: ...

    def messages_received(self, messages: list[bytes]) -> None:
        assert not self.ends, "a message after the end"
        self.messages += messages

    def pong_received(self, payload: bytes) -> None: ...
    def write_paused(self) -> None: ...
    def write_resumed(self) -> None: ...

    def websocket_closed(self, code: int, reason: str) -> None:
        self.ends.append(code)


def check(data: bytes) -> None:
    side = Side.CLIENT if data[:1] == b"\1" else Side.SERVER
    LOOP.run_until_complete(_check(side, data[1:]))


async def _check(side: Side, data: bytes) -> None:
    whole = await _receive(side, [data])
    split = await _receive(side, pieces(data))
    assert whole.messages == split.messages
    assert whole.ends == split.ends and len(whole.ends) <= 1
    assert whole.messages == _reference(side, data)
    assert all(len(message) <= LARGEST for message in whole.messages)


async def _receive(side: Side, reads: Iterable[bytes]) -> Owner:
    websocket, owner = WebSocket(_protocol(side)), Owner()
    websocket.owner = owner
    websocket._begin()  # the handshake is not what is looked at here
    websocket.channel._transport = cast(Any, Socket())
    for read in reads:
        websocket.channel.data_received(read)
        left = -1
        while len(websocket._buffer) != left:  # it takes so many frames a turn of the loop
            left = len(websocket._buffer)
            await asyncio.sleep(0)
    if websocket._close_timer is not None:
        websocket._close_timer.cancel()
    return owner


def _protocol(side: Side) -> Protocol:
    return Protocol(side, state=OPEN, max_size=LARGEST)


def _reference(side: Side, data: bytes) -> list[bytes]:
    """The whole text messages, up to the first frame that ends the connection."""
    protocol, messages, parts = _protocol(side), [], [b""]
    protocol.receive_data(data)
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.BINARY:
            break  # refused by us, not by the protocol
        if event.opcode in (TEXT, CONT):
            parts.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(parts))
                parts.clear()
    return messages
